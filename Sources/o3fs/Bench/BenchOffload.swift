import ArgumentParser
import O3LSM

/// What leaves the process that writes, layer by layer: the ablation of O3-LSM's paper.
enum BenchOffload: String, CaseIterable, ExpressibleByArgument {
    /// Write buffers of `localBuffer` bytes together; flushes and compactions are done by threads of this process.
    case none
    /// Compactions are done by workers.
    case compaction
    /// Flushes, too.
    case flush
    /// The write buffer extends into all of disaggregated memory.
    case all

    /// What workers do.
    var roles: [Worker.Role] {
        switch self {
        case .none: return []
        case .compaction: return [.compaction]
        case .flush, .all: return [.flush, .compaction]
        }
    }

    /// The options of the engine for this step.
    func apply(to options: inout Options) {
        guard self != .all else { return }
        // Room for the arenas of as many memtables as the buffer holds, with what their shards leave unused, and
        // their filters.
        let count = max(2, options.localBuffer / options.memtableSize)
        let slabs = options.memtableSize >> 20
        options.dmSize = max(16, count * (slabs + options.shards + max(1, slabs / 64)) + 3) << 20
    }
}
