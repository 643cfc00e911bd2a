import Glibc
import O3LSM

/// Collects what a read found, as pieces that stay valid while the sink holds them, so that a reply
/// can be gathered from where the bytes lie without a copy. One thread at a time; reuse it with
/// `clear()`, which releases the pieces and keeps the memory of the list.
public final class ReadSink {
    /// A run of bytes.
    public struct Piece {
        public let bytes: UnsafeRawBufferPointer
        /// Keeps `bytes` alive; nil for memory of the sink itself (zeros, gathered blocks).
        let pin: PinnedValue?
    }

    public private(set) var pieces: [Piece] = []
    /// Bytes in all pieces.
    public private(set) var count = 0

    /// Memory for bytes that could not be pinned, grown to the largest read.
    private var scratch = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var scratchUsed = 0

    public init() {}

    deinit { scratch.deallocate() }

    /// Forgets the pieces; what they pointed to may be freed.
    public func clear() {
        pieces.removeAll(keepingCapacity: true)
        count = 0
        scratchUsed = 0
    }

    /// Copies everything into one array (tests and small commands).
    public func copy() -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count)
        for piece in pieces { result.append(contentsOf: piece.bytes) }
        return result
    }

    /// Zeros of any length: readable memory that costs no RAM (the kernel's zero page).
    func appendZeros(_ length: Int) {
        var rest = length
        while rest > 0 {
            let part = min(rest, Self.zeroRunBytes)
            pieces.append(Piece(bytes: UnsafeRawBufferPointer(start: Self.zeros, count: part), pin: nil))
            rest -= part
        }
        count += length
    }

    func append(_ bytes: UnsafeRawBufferPointer, pinnedBy pin: PinnedValue) {
        guard bytes.count > 0 else { return }
        pieces.append(Piece(bytes: bytes, pin: pin))
        count += bytes.count
    }

    /// Makes room for `bytes` copied bytes. Before the first `appendCopy` of a read: a later growth
    /// would move what earlier pieces point to.
    func reserveScratch(_ bytes: Int) {
        guard scratchUsed == 0, bytes > scratch.count else { return }
        scratch.deallocate()
        scratch = .allocate(byteCount: bytes, alignment: 4096)
    }

    /// Copies into the sink's memory, within what `reserveScratch` made room for; adjacent copies
    /// become one piece.
    func appendCopy(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, let base = scratch.baseAddress,
            bytes.count > 0, scratchUsed + bytes.count <= scratch.count
        else { return }
        let target = base + scratchUsed
        memcpy(target, source, bytes.count)
        scratchUsed += bytes.count
        count += bytes.count
        if let last = pieces.last, last.pin == nil, let lastBase = last.bytes.baseAddress,
            lastBase + last.bytes.count == UnsafeRawPointer(target)
        {
            let joined = UnsafeRawBufferPointer(start: lastBase, count: last.bytes.count + bytes.count)
            pieces[pieces.count - 1] = Piece(bytes: joined, pin: nil)
        } else {
            pieces.append(Piece(bytes: UnsafeRawBufferPointer(start: target, count: bytes.count), pin: nil))
        }
    }

    private static let zeroRunBytes = 1 << 20

    // Safe to share: never written after this, never unmapped.
    private nonisolated(unsafe) static let zeros: UnsafeRawPointer = {
        let mapped = mmap(nil, zeroRunBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if let mapped, mapped != MAP_FAILED { return UnsafeRawPointer(mapped) }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: zeroRunBytes, alignment: 4096)
        memset(memory, 0, zeroRunBytes)
        return UnsafeRawPointer(memory)
    }()
}
