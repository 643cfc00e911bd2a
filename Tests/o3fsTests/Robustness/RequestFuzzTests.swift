import CFUSE3
import Foundation
import O3FileSystem
import O3LSM
import Synchronization
import Testing

@testable import FUSE
@testable import o3fs

/// Messages that no kernel sends, and many that it might, for the file system on its engine: of every operation, with
/// lengths, names, nodes, sizes and flags at random. Each gets one answer that is whole, or none where none is due;
/// nothing crashes or hangs, and `check` finds nothing afterwards.
///
/// O3LSM_FUZZ_SECONDS and O3LSM_FUZZ_SEED as in FuzzTests.
@Suite struct RequestFuzzTests {
    private static func environment(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }

    @Test func requests() throws {
        let seconds = Self.environment("O3LSM_FUZZ_SECONDS") ?? 1
        let seed = Self.environment("O3LSM_FUZZ_SEED") ?? .random(in: 1...1_000_000)
        let directory = try TemporaryDirectory("requests")
        var engine = O3LSM.Options()
        engine.dmSize = 64 << 20
        engine.memtableSize = 4 << 20
        let database = try Database.open(directory.path + "/store", options: engine)
        var limits = FileSystem.Options()
        limits.maximumBytes = .to(256 << 20)
        let files = try FileSystem(database, options: limits)
        let troubles = Mutex<[String]>([])
        let adapter = FileSystemAdapter(files) { error in troubles.withLock { $0.append("\(error)") } }

        var options = SessionOptions()
        options.accessControlLists = true
        options.clearsPrivilegesWhenTold = true
        let handle = try makeHandle(options)
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        try redirectAnswers(of: handle, to: null)
        try exchangeInitialization(handle, adapter, options, ReplayChannel(Message.initialization))
        adapter.start()
        let channel = GeneratedChannel(seed: seed)
        let worker = Worker(handle: handle, operations: adapter, options: options, channel: channel)
        worker.attach()
        let end = Date().addingTimeInterval(Double(seconds))
        while Date() < end, channel.problems.isEmpty, troubles.withLock({ $0.isEmpty }) {
            let start = Date()
            for _ in 0..<64 {
                _ = worker.serveOne()
                channel.expectAnswer()
            }
            #expect(Date().timeIntervalSince(start) < 20, "64 requests, the last one \(channel.last)")
        }
        worker.detach()
        fuse_session_destroy(handle)
        print("FuzzTests: FUSE requests, seed \(seed): \(channel.count) executions, \(channel.refused) refused")
        #expect(channel.problems.isEmpty, "seed \(seed)")
        #expect(troubles.withLock { $0 }.isEmpty)
        // Few are refused, or little was tried.
        #expect(channel.refused < channel.count)
        #expect(try files.check().isEmpty, "seed \(seed)")
        adapter.stop()
        try database.close()
    }
}

/// Makes one message after another, and looks at what comes back.
private final class GeneratedChannel: Channel {
    private var random: RandomNumbers
    private(set) var count = 0
    private(set) var refused = 0
    private(set) var problems: [String] = []
    private(set) var last = ""
    private var unique: UInt64 = 0
    private var opcode: UInt32 = 0
    private var answers = 0
    /// Of interruptions: libfuse answers one with EAGAIN when the next message is not what it is to interrupt.
    private var interruptions: Set<UInt64> = []
    /// Nodes that answers have told of.
    private var nodes: [UInt64] = [1]

    init(seed: UInt64) { random = RandomNumbers(state: seed) }

    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received {
        unique += 2
        let message = Message.random(&random, unique: unique, nodes: nodes)
        opcode = message.opcode
        last = "\(message.bytes.prefix(200))"
        answers = 0
        count += 1
        if opcode == FUSE_INTERRUPT.rawValue { interruptions.insert(unique) }
        // What was there before must not pass for a part of the message.
        for index in 0..<min(buffer.count, message.bytes.count + 512) { buffer[index] = 0x41 }
        buffer.copyBytes(from: message.bytes)
        return .request(message.bytes.count)
    }

    func send(_ pieces: UnsafePointer<iovec>, _ count: Int32) -> Int {
        var bytes: [UInt8] = []
        for piece in UnsafeBufferPointer(start: pieces, count: Int(count)) {
            bytes += UnsafeRawBufferPointer(start: piece.iov_base, count: piece.iov_len)
        }
        let answered = bytes.count >= 16 ? bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self) } : 0
        if answered != unique, interruptions.remove(answered) != nil { return bytes.count }
        answers += 1
        bytes.withUnsafeBytes { answer in
            guard answer.count >= 16 else { return problems.append("an answer of \(answer.count) bytes: \(last)") }
            let header = answer.loadUnaligned(as: fuse_out_header.self)
            if Int(header.len) != answer.count { problems.append("an answer of \(answer.count) bytes says \(header.len): \(last)") }
            if header.unique != unique { problems.append("an answer to \(header.unique), not \(unique): \(last)") }
            if header.error > 0 || header.error < -4095 || (header.error != 0 && answer.count > 16) {
                problems.append("error \(header.error) with \(answer.count) bytes: \(last)")
            }
            if header.error != 0 { refused += 1 }
            let makesNode = [FUSE_LOOKUP, FUSE_MKNOD, FUSE_MKDIR, FUSE_SYMLINK, FUSE_LINK].map(\.rawValue).contains(opcode)
            if header.error == 0, makesNode || opcode == 51, answer.count >= 24 {
                let node = answer.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
                if nodes.count < 64 { nodes.append(node) } else { nodes[1 + random.below(63)] = node }
            }
        }
        return bytes.count
    }

    func expectAnswer() {
        let isDue = MessageShape.isAnswered(opcode)
        // libfuse answers what it takes for an answer to itself with an error.
        guard isDue ? answers != 1 : answers > 0 && opcode != FUSE_NOTIFY_REPLY.rawValue else { return }
        problems.append("\(answers) answers to \(last)")
    }

    func close() {}
}

private enum Message {
    /// What Linux 6.18 offers.
    static var initialization: [UInt8] {
        var bytes: [UInt8] = []
        for word: UInt32 in [7, 40, 128 << 10, 0x7bff_fffb] + [UInt32](repeating: 0, count: 12) {
            withUnsafeBytes(of: word) { bytes += $0 }
        }
        return message(FUSE_INIT.rawValue, unique: 2, node: 0, body: bytes)
    }

    static func message(_ opcode: UInt32, unique: UInt64, node: UInt64, user: UInt32 = 0, body: [UInt8]) -> [UInt8] {
        var header = fuse_in_header()
        header.len = UInt32(MemoryLayout<fuse_in_header>.size + body.count)
        header.opcode = opcode
        header.unique = unique
        header.nodeid = node
        header.uid = user
        header.gid = user
        header.pid = 1
        return withUnsafeBytes(of: header) { Array($0) } + body
    }

    private static let opcodes: [UInt32] = (1...53).filter { $0 != FUSE_INIT.rawValue && $0 != FUSE_DESTROY.rawValue }
    private static let numbers: [UInt64] = [
        0, 1, 2, 3, 4, 7, 8, 16, 511, 4095, 4096, 4097, 65536, 131_072, 1 << 20, 1 << 31, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 62,
        (1 << 63) - 1, 1 << 63, .max - 1, .max, 0o100644, 0o040755, 0o120777, 0o104711,
    ]

    static func random(_ random: inout RandomNumbers, unique: UInt64, nodes: [UInt64]) -> (opcode: UInt32, bytes: [UInt8]) {
        let opcode = opcodes[random.below(opcodes.count)]
        var body: [UInt8] = []
        // Words of which most are small, then names, then bytes: more or less what an operation has.
        for _ in 0..<[0, 1, 2, 2, 4, 5, 8, 10, 11, 22][random.below(10)] {
            let kind = random.below(4)
            let number = kind == 0 ? random.next() : kind == 1 ? nodes[random.below(nodes.count)] : numbers[random.below(numbers.count)]
            withUnsafeBytes(of: UInt32(truncatingIfNeeded: number)) { body += $0 }
            if kind > 1, random.below(2) == 0 {
                withUnsafeBytes(of: UInt32(truncatingIfNeeded: number >> 32)) { body += $0 }
            }
        }
        for _ in 0..<random.below(4) { body += name(&random) + (random.below(12) == 0 ? [] : [0]) }
        if random.below(3) == 0 {
            body += [UInt8](repeating: UInt8(truncatingIfNeeded: random.next()), count: [1, 8, 44, 4096, 70_000][random.below(5)])
        }
        if random.below(8) == 0, !body.isEmpty { body.removeLast(1 + random.below(body.count)) }
        let node = random.below(8) == 0 ? numbers[random.below(numbers.count)] : nodes[random.below(nodes.count)]
        let user = [0, 0, 0, 1000, UInt32.max][random.below(5)]
        var bytes = message(opcode, unique: unique, node: node, user: user, body: body)
        // The length that it says of itself.
        if random.below(16) == 0 {
            let length = UInt32(truncatingIfNeeded: numbers[random.below(numbers.count)])
            bytes.withUnsafeMutableBytes { $0.storeBytes(of: length, as: UInt32.self) }
        }
        return (opcode, bytes)
    }

    private static func name(_ random: inout RandomNumbers) -> [UInt8] {
        let known = ["a", "b", "c", "d", "", ".", "..", "a/b", "user.x", "system.posix_acl_access", "security.capability", "trusted.y"]
        switch random.below(16) {
        case 0: return [UInt8](repeating: 0x78, count: [254, 255, 256, 4096, 70_000][random.below(5)])
        case 1: return (0..<random.below(20)).map { _ in UInt8(truncatingIfNeeded: random.next() | 1) }
        default: return Array(known[random.below(known.count)].utf8)
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed.
private struct RandomNumbers {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
