import Glibc
import Synchronization

/// A storage that behaves as if it were at the other end of a network: each call that has to wait for it takes
/// a round trip longer, and bytes pass at a bounded rate. For measuring on one machine what disaggregated
/// storage does to a store; thread-safe.
///
/// Appends are handed over asynchronously, so they pay for their bytes only; syncs, reads and opens wait for a
/// round trip. The link is full duplex and belongs to one process.
public final class DistantStorage: Storage {
    private let base: any Storage
    private let link: Link

    /// - Parameters:
    ///   - latencyNanoseconds: of one round trip; 0 for none.
    ///   - bytesPerSecond: in each direction; nil: unbounded.
    public init(_ base: any Storage, latencyNanoseconds: UInt64, bytesPerSecond: UInt64?) {
        self.base = base
        link = Link(latencyNanoseconds: latencyNanoseconds, bytesPerSecond: bytesPerSecond)
    }

    /// Whether calls cost no more than those of the storage behind, from now on and for those that wait already (these may
    /// wait for another quarter of a second). For what a measurement does not measure.
    public var isNear: Bool {
        get { link.isNear.load(ordering: .relaxed) }
        set { link.isNear.store(newValue, ordering: .relaxed) }
    }

    public func create(_ path: String) throws(EngineError) -> any WritableFile {
        link.roundTrip()
        return DistantWritableFile(try base.create(path), link)
    }
    public func reuse(_ path: String) throws(EngineError) -> any WritableFile {
        link.roundTrip()
        return DistantWritableFile(try base.reuse(path), link)
    }
    public func openForReading(_ path: String) throws(EngineError) -> any ReadableFile {
        link.roundTrip()
        return DistantReadableFile(try base.openForReading(path), link)
    }
    public func rename(_ source: String, to destination: String) throws(EngineError) {
        link.roundTrip()
        try base.rename(source, to: destination)
    }
    public func exchange(_ path: String, with other: String) throws(EngineError) {
        link.roundTrip()
        try base.exchange(path, with: other)
    }
    public func delete(_ path: String) throws(EngineError) { try base.delete(path) }
    public func link(_ path: String, to second: String) throws(EngineError) { try base.link(path, to: second) }
    public func removeDirectory(_ path: String) throws(EngineError) { try base.removeDirectory(path) }
    public func list(_ directory: String) throws(EngineError) -> [String] { try base.list(directory) }
    public func createDirectory(_ path: String) throws(EngineError) { try base.createDirectory(path) }
    public func createNewDirectory(_ path: String) throws(EngineError) { try base.createNewDirectory(path) }
    public func checkOwn(_ directory: String) throws(EngineError) { try base.checkOwn(directory) }
    public func removeTree(_ directory: String) throws(EngineError) { try base.removeTree(directory) }
    public func syncDirectory(_ path: String) throws(EngineError) {
        link.roundTrip()
        try base.syncDirectory(path)
    }
    public func exists(_ path: String) -> Bool { base.exists(path) }
    public func fileIdentity(_ path: String) throws(EngineError) -> FileIdentity { try base.fileIdentity(path) }
    public func fileSize(_ path: String) throws(EngineError) -> UInt64 { try base.fileSize(path) }
    public func lock(_ path: String) throws(EngineError) -> any FileLock { try base.lock(path) }
    public func space(_ path: String) throws(EngineError) -> (free: UInt64, total: UInt64) { try base.space(path) }
}

/// The way to the storage: one for sending, one for receiving.
private final class Link: Sendable {
    let isNear = Atomic<Bool>(false)
    private let latencyNanoseconds: UInt64
    private let sending: RateLimiter?
    private let receiving: RateLimiter?

    init(latencyNanoseconds: UInt64, bytesPerSecond: UInt64?) {
        self.latencyNanoseconds = latencyNanoseconds
        sending = bytesPerSecond.map { RateLimiter(bytesPerSecond: $0) }
        receiving = bytesPerSecond.map { RateLimiter(bytesPerSecond: $0) }
    }

    func roundTrip() {
        guard latencyNanoseconds > 0, !isNear.load(ordering: .relaxed) else { return }
        var time = timespec(
            tv_sec: Int(latencyNanoseconds / 1_000_000_000), tv_nsec: Int(latencyNanoseconds % 1_000_000_000))
        nanosleep(&time, nil)
    }
    func send(_ bytes: Int) { pass(sending, bytes) }
    func receive(_ bytes: Int) { pass(receiving, bytes) }

    private func pass(_ limiter: RateLimiter?, _ bytes: Int) {
        guard let limiter, !isNear.load(ordering: .relaxed) else { return }
        limiter.acquire(UInt64(bytes)) { isNear.load(ordering: .relaxed) }
    }
}

private final class DistantWritableFile: WritableFile {
    private let base: any WritableFile
    private let link: Link

    init(_ base: any WritableFile, _ link: Link) {
        self.base = base
        self.link = link
    }

    var path: String { base.path }
    var size: UInt64 { base.size }
    func append(_ bytes: UnsafeRawBufferPointer) throws(EngineError) {
        link.send(bytes.count)
        try base.append(bytes)
    }
    func flush() throws(EngineError) { try base.flush() }
    func sync() throws(EngineError) {
        link.roundTrip()
        try base.sync()
    }
    func close() throws(EngineError) { try base.close() }
}

private final class DistantReadableFile: ReadableFile {
    private let base: any ReadableFile
    private let link: Link

    init(_ base: any ReadableFile, _ link: Link) {
        self.base = base
        self.link = link
    }

    var path: String { base.path }
    var size: UInt64 { base.size }
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        link.roundTrip()
        let count = try base.read(at: offset, into: buffer)
        link.receive(count)
        return count
    }
    func prefetch(at offset: UInt64, length: Int) { base.prefetch(at: offset, length: length) }
    func forgetCached() { base.forgetCached() }
}
