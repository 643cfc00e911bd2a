import ArgumentParser
import Foundation
import O3LSM

/// How far away storage and memory are to seem. For experiments.
struct DistanceOptions: ParsableArguments {
    @Option(
        name: dashed("storage-latency"), help: "Microseconds that a round trip to storage takes longer.")
    var storageLatency = 0

    @Option(name: dashed("storage-bandwidth"), help: "Bytes a second to and from storage.")
    var storageBandwidth: ByteSize?

    @Option(
        name: dashed("dm-latency"),
        help: "Microseconds (0.2 is allowed) of a round trip of the owner to disaggregated memory. Workers pay nothing.")
    var dmLatency = 0.0

    @Option(
        name: dashed("dm-bandwidth"),
        help: "Bytes a second of the owner's transfers to and from disaggregated memory. Workers pay nothing.")
    var dmBandwidth: ByteSize?

    func validate() throws {
        guard dmLatency >= 0, dmLatency <= 10_000 else {
            throw ValidationError("--dm-latency must be 0 to 10000 microseconds.")
        }
        guard dmBandwidth?.bytes ?? 1 << 20 >= 1 << 20 else { throw ValidationError("--dm-bandwidth must be at least 1M.") }
        guard (0...10_000_000).contains(storageLatency) else {
            throw ValidationError("--storage-latency must be 0 to 10000000 microseconds.")
        }
        guard storageBandwidth?.bytes ?? 1 > 0 else { throw ValidationError("--storage-bandwidth must be at least 1.") }
    }

    /// The machine's own storage, as near as it is, unless a distance was asked for.
    func storage(storeLock: SharedStoreLock? = nil) -> any Storage {
        var near: any Storage = POSIXStorage(storeLock: storeLock)
        #if DEBUG || FAULT_POINTS
            // A journal that cannot be written is as good as none: who asked for it will not find it.
            if let journal = ProcessInfo.processInfo.environment["O3LSM_JOURNAL"],
                let journaling = try? JournalingStorage(near, journal: journal)
            {
                near = journaling
            }
            if let script = getenv("O3LSM_STORAGE_FAULTS") { near = FaultyStorage(near, script: String(cString: script)) }
        #endif
        guard storageLatency > 0 || storageBandwidth != nil else { return near }
        return DistantStorage(
            near, latencyNanoseconds: UInt64(storageLatency) * 1000,
            bytesPerSecond: storageBandwidth.map { UInt64($0.bytes) })
    }

    /// The distance to memory, for the owner of a store.
    func apply(to options: inout Options) {
        options.dmLatencyNanoseconds = Int((dmLatency * 1000).rounded())
        options.dmBandwidth = dmBandwidth?.bytes
    }

    /// The distance to storage, for the command line of a worker; it sits next to the memory.
    var arguments: [String] {
        (storageLatency > 0 ? ["--storage-latency", "\(storageLatency)"] : [])
            + (storageBandwidth.map { ["--storage-bandwidth", "\($0.bytes)"] } ?? [])
    }
}
