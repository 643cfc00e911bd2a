import ArgumentParser
import O3LSM

/// How far away storage is to seem. For experiments.
struct DistanceOptions: ParsableArguments {
    @Option(
        name: dashed("storage-latency"), help: "Microseconds that a round trip to storage takes longer.")
    var storageLatency = 0

    @Option(name: dashed("storage-bandwidth"), help: "Bytes a second to and from storage.")
    var storageBandwidth: ByteSize?

    func validate() throws {
        guard (0...10_000_000).contains(storageLatency) else {
            throw ValidationError("--storage-latency must be 0 to 10000000 microseconds.")
        }
        guard storageBandwidth?.bytes ?? 1 > 0 else { throw ValidationError("--storage-bandwidth must be at least 1.") }
    }

    /// The machine's own storage, as near as it is, unless a distance was asked for.
    func storage() -> any Storage {
        guard storageLatency > 0 || storageBandwidth != nil else { return POSIXStorage() }
        return DistantStorage(
            POSIXStorage(), latencyNanoseconds: UInt64(storageLatency) * 1000,
            bytesPerSecond: storageBandwidth.map { UInt64($0.bytes) })
    }

    /// The same, for the command line of a worker.
    var arguments: [String] {
        (storageLatency > 0 ? ["--storage-latency", "\(storageLatency)"] : [])
            + (storageBandwidth.map { ["--storage-bandwidth", "\($0.bytes)"] } ?? [])
    }
}
