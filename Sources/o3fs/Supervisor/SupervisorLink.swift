import CSystem
import Glibc

/// What a daemon and its supervisor say to each other: one message of a sequenced-packet socket each.
///
/// What the supervisor keeps for the next daemon it does not look into: a newer program can keep something else.
enum SupervisorMessage: Equatable {
    /// To the daemon, first of all: who it is. With `kept`, it goes on with a mount; else it makes one.
    case begin(Beginning)
    /// Keep these bytes and the descriptors that come along for the next daemon. It replaces what was kept.
    case keep([UInt8])
    /// The mount is served.
    case ready
    /// The daemon ends without unmounting; the next one is the program at this path.
    case upgrade(String)
    /// The mount is gone, or nobody can go on with it: the daemon's end is the end.
    case over
    /// Why the daemon ends, in a few words, where its exit status would not tell.
    case lastWords(String)

    struct Beginning: Equatable {
        /// How many daemons have served the mount before this one.
        var generation: UInt64 = 0
        /// How many of them died.
        var deaths: UInt64 = 0
        /// Monotonic time at which the last one's end was noticed, in nanoseconds; 0: there was none.
        var endNanoseconds: UInt64 = 0
        /// How it ended, in a few words.
        var cause = ""
        var kept: [UInt8]?
    }

    /// Longest message in bytes: paths and the first request of the FUSE protocol.
    static let maximumBytes = 32 << 10

    var encoded: [UInt8] {
        var writer = FieldWriter()
        switch self {
        case .begin(let value):
            writer.add(UInt64(UInt8(ascii: "B")))
            for number in [value.generation, value.deaths, value.endNanoseconds] { writer.add(number) }
            writer.add(Array(value.cause.utf8))
            writer.add(value.kept == nil ? 0 : 1)
            writer.add(value.kept ?? [])
        case .keep(let bytes):
            writer.add(UInt64(UInt8(ascii: "K")))
            writer.add(bytes)
        case .ready: writer.add(UInt64(UInt8(ascii: "R")))
        case .upgrade(let path):
            writer.add(UInt64(UInt8(ascii: "U")))
            writer.add(Array(path.utf8))
        case .over: writer.add(UInt64(UInt8(ascii: "O")))
        case .lastWords(let text):
            writer.add(UInt64(UInt8(ascii: "W")))
            writer.add(Array(text.utf8))
        }
        return writer.bytes
    }

    /// nil for bytes that are no message.
    init?(_ bytes: [UInt8]) {
        var reader = FieldReader(bytes)
        guard let code = reader.number(), let kind = UInt8(exactly: code) else { return nil }
        switch kind {
        case UInt8(ascii: "B"):
            var value = Beginning()
            guard let generation = reader.number(), let deaths = reader.number(), let end = reader.number(),
                let cause = reader.field(), let hasKept = reader.number(), let kept = reader.field()
            else { return nil }
            (value.generation, value.deaths, value.endNanoseconds) = (generation, deaths, end)
            value.cause = String(decoding: cause, as: UTF8.self)
            value.kept = hasKept == 1 ? kept : nil
            self = .begin(value)
        case UInt8(ascii: "K"):
            guard let bytes = reader.field() else { return nil }
            self = .keep(bytes)
        case UInt8(ascii: "R"): self = .ready
        case UInt8(ascii: "U"):
            guard let path = reader.field() else { return nil }
            self = .upgrade(String(decoding: path, as: UTF8.self))
        case UInt8(ascii: "O"): self = .over
        case UInt8(ascii: "W"):
            guard let text = reader.field() else { return nil }
            self = .lastWords(String(decoding: text, as: UTF8.self))
        default: return nil
        }
    }
}

/// Numbers of 8 bytes, little-endian, and byte strings with their length before them.
struct FieldWriter {
    private(set) var bytes: [UInt8] = []

    mutating func add(_ number: UInt64) { withUnsafeBytes(of: number.littleEndian) { bytes += $0 } }
    mutating func add(_ field: [UInt8]) {
        add(UInt64(field.count))
        bytes += field
    }
}

/// Reads what `FieldWriter` wrote; nil at the end, and for a length beyond it.
struct FieldReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    mutating func number() -> UInt64? {
        guard rest.count >= 8 else { return nil }
        let value = rest.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) }
        rest.removeFirst(8)
        return value
    }

    mutating func field() -> [UInt8]? {
        guard let length = number(), length <= UInt64(rest.count) else { return nil }
        defer { rest.removeFirst(Int(length)) }
        return Array(rest.prefix(Int(length)))
    }
}

/// One end of the socket between a daemon and its supervisor. Messages may be sent by any thread, and are received
/// by one.
final class SupervisorLink: Sendable {
    private let descriptor: Int32

    /// Owns `descriptor`.
    init(descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// False when the other end is gone, or the system cannot send.
    @discardableResult
    func send(_ message: SupervisorMessage, descriptors: [Int32] = []) -> Bool { trySend(message, descriptors) == 0 }

    /// 0, or why not.
    private func trySend(_ message: SupervisorMessage, _ descriptors: [Int32]) -> Int32 {
        let bytes = message.encoded
        let result = o3_send_descriptors(descriptor, bytes, bytes.count, descriptors, Int32(descriptors.count))
        return result < 0 ? Int32(truncatingIfNeeded: -result) : 0
    }

    private static let sendPauseMicroseconds: UInt32 = 100_000
    private static let sendAttempts = 600

    /// As `send`; a system that is short of memory or descriptors is waited for, a minute at most.
    func sendPatiently(_ message: SupervisorMessage, descriptors: [Int32] = []) -> Bool {
        for attempt in 1...Self.sendAttempts {
            switch trySend(message, descriptors) {
            case 0: return true
            case ENOMEM, ENOBUFS, ETOOMANYREFS, EAGAIN, EMFILE, ENFILE:
                if attempt < Self.sendAttempts { usleep(Self.sendPauseMicroseconds) }
            default: return false
            }
        }
        return false
    }

    /// Whether something can be received, be it the end; waits for it so long.
    func hasMessage(within milliseconds: Int32) -> Bool {
        var question = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&question, 1, milliseconds) > 0
    }

    /// Waits for a message; nil when the other end is gone, or sends what is none. The caller owns its descriptors.
    func receive() -> (message: SupervisorMessage, descriptors: [Int32])? {
        var bytes = [UInt8](repeating: 0, count: SupervisorMessage.maximumBytes)
        var count = Int32(o3_maximum_descriptors)
        var descriptors = [Int32](repeating: -1, count: Int(count))
        let length = o3_receive_descriptors(descriptor, &bytes, bytes.count, &descriptors, &count)
        descriptors.removeLast(descriptors.count - Int(count))
        guard length > 0, let message = SupervisorMessage(Array(bytes[..<Int(length)])) else {
            for descriptor in descriptors { close(descriptor) }
            return nil
        }
        return (message, descriptors)
    }

    /// Whether the other end is still there.
    var isConnected: Bool {
        var question = pollfd(fd: descriptor, events: 0, revents: 0)
        return poll(&question, 1, 0) == 0
    }
}
