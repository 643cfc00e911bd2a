import CSystem
import Foundation
import Glibc
import Testing

@testable import o3fs

extension MountTests {
    /// A mount whose storage fails under it, call by call: programs are answered, in time and with an error that is true;
    /// reads go on; `o3fs status` says what is wrong and what to do; what was acknowledged is there when that was done,
    /// and what was synced after a loss of power.
    @Suite(.serialized, .enabled(if: Machine.hasFaultPoints, needsFaultPoints))
    struct StorageFaultMountTests {
        struct Fault: CustomTestStringConvertible, Sendable {
            let lines: [String]
            var testDescription: String { lines.joined(separator: ", ") }
            /// Whether it lets calls of an operation fail.
            func lets(_ operation: String) -> Bool { lines.contains { $0.hasPrefix(operation + " ") } }
        }

        /// O3FS_STORAGE_FAULTS=all takes every one; by default every third.
        static let faults: [Fault] = {
            let isWhole = ProcessInfo.processInfo.environment["O3FS_STORAGE_FAULTS"] == "all"
            return all.indices.filter { isWhole || $0 % 3 == 0 }.map { all[$0] }
        }()

        /// The errors as numbers: EIO 5, ENOSPC 28, EDQUOT 122.
        private static let all: [Fault] = [
            Fault(lines: ["append 5 /wal/"]), Fault(lines: ["append 28 /wal/"]), Fault(lines: ["append half /wal/"]),
            Fault(lines: ["sync 5 /wal/"]), Fault(lines: ["sync 28 /wal/"]),
            Fault(lines: ["create 5 /wal/", "reuse 5 /wal/"]),
            Fault(lines: ["append 5 /sst/"]), Fault(lines: ["append 122 /sst/"]), Fault(lines: ["sync 5 /sst/"]),
            Fault(lines: ["create 28 /sst/"]), Fault(lines: ["rename 5 /sst/"]), Fault(lines: ["open 5 /sst/"]),
            Fault(lines: ["read 5 /sst/"]), Fault(lines: ["read half /sst/"]),
            Fault(lines: ["append 5 MANIFEST"]), Fault(lines: ["sync 5 MANIFEST"]), Fault(lines: ["append 28 MANIFEST"]),
            Fault(lines: ["syncDirectory 5"]), Fault(lines: ["delete 5"]), Fault(lines: ["space 5"]),
            Fault(lines: ["append 28", "create 28", "sync 28"]), Fault(lines: ["append 5", "sync 5", "read 5"]),
        ]

        private static let allowed: Set<Int32> = [EIO, ENOSPC, EDQUOT, EROFS]
        private static let patienceSeconds = 60.0

        /// What was written, and how far it is known to be there.
        private final class Workload {
            let mount: TestMount
            private(set) var acknowledged: [String: [UInt8]] = [:]
            private(set) var synced: Set<String> = []
            private(set) var errors: Set<Int32> = []
            private(set) var slowest = 0.0

            private static let noise = URL(fileURLWithPath: "/dev/urandom")

            init(_ mount: TestMount) { self.mount = mount }

            private func timed(_ call: () -> Int) -> Bool {
                let start = Date()
                let result = call()
                if result < 0 { errors.insert(errno) }
                slowest = max(slowest, Date().timeIntervalSince(start))
                return result >= 0
            }

            /// A file that is written in parts, closed, and now and then synced.
            ///
            /// - Returns: false when something was refused.
            @discardableResult
            func write(_ name: String, sync: Bool) -> Bool {
                let bytes = Array((try? FileHandle(forReadingFrom: Self.noise).read(upToCount: 400_000)) ?? Data())
                guard bytes.count == 400_000 else { return false }
                var file: Int32 = -1
                let isOpen = timed {
                    file = open(mount(name), O_CREAT | O_WRONLY | O_TRUNC, 0o644)
                    return Int(file)
                }
                guard isOpen else { return false }
                defer { close(file) }
                for start in stride(from: 0, to: bytes.count, by: 100_000) {
                    let isWritten = bytes.withUnsafeBytes { buffer in
                        // Never empty. A part that was written is an answer, too, but acknowledges no more than that.
                        var count = 0
                        let isTaken = timed {
                            count = pwrite(file, buffer.baseAddress! + start, 100_000, off_t(start))
                            return count
                        }
                        return isTaken && count == 100_000
                    }
                    guard isWritten else { return false }
                }
                acknowledged[name] = bytes
                if sync {
                    guard timed({ Int(fsync(file)) }) else { return false }
                    synced.insert(name)
                }
                return true
            }

            /// What of the files that are known to be there is not as it was written, read anew.
            func differences(synced isSynced: Bool, mayFail: Bool) -> [String] {
                acknowledged.sorted { $0.key < $1.key }.compactMap { name, bytes in
                    guard !isSynced || synced.contains(name) else { return nil }
                    let file = open(mount(name), O_RDONLY)
                    guard file >= 0 else { return mayFail && errno == EIO ? nil : "\(name) cannot be opened: \(errno)" }
                    defer { close(file) }
                    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)
                    var found = [UInt8](repeating: 0, count: bytes.count + 1)
                    let count = found.withUnsafeMutableBytes { pread(file, $0.baseAddress, $0.count, 0) }
                    if count < 0 { return mayFail && errno == EIO ? nil : "\(name) cannot be read: \(errno)" }
                    // A read that meets an error behind some bytes answers with those.
                    let isWhole = count == bytes.count || mayFail && count < bytes.count
                    guard isWhole, Array(found[..<count]) == Array(bytes[..<count]) else {
                        let place = zip(found, bytes).enumerated().first { $1.0 != $1.1 }?.offset
                        return "\(name) is wrong: \(count) bytes, the first other one at \(place ?? -1)"
                    }
                    return nil
                }
            }
        }

        private func troubles(_ mount: TestMount) throws -> [[String: Any]] {
            try #require(try O3FSBinary.json("status", mount.path, "--json")["troubles"] as? [[String: Any]])
        }

        @Test(.timeLimit(.minutes(3)), arguments: faults) func programsAreToldAndNothingIsLost(fault: Fault) throws {
            let directory = try TemporaryDirectory("faults")
            let script = directory.path + "/faults"
            func set(_ lines: [String]) throws {
                try lines.joined(separator: "\n").write(toFile: script, atomically: true, encoding: .utf8)
            }
            let mount = try TestMount(
                dmSize: 16 << 20, options: ["--workers", "0"], program: O3FSBinary.withFaultPoints,
                environment: ["O3LSM_STORAGE_FAULTS": script])
            let work = Workload(mount)
            // So much that some of it is in tables, and some in memory.
            for index in 0..<50 { work.write("before \(index)", sync: index % 4 == 0) }
            #expect(work.errors.isEmpty && work.differences(synced: false, mayFail: false).isEmpty)

            try set(fault.lines)
            var refused = 0
            for index in 0..<60 {
                if !work.write("under \(index)", sync: index % 4 == 0) { refused += 1 }
                guard index % 20 == 10 else { continue }
                #expect(work.differences(synced: false, mayFail: fault.lets("read") || fault.lets("open")) == [])
            }
            #expect(work.errors.isSubset(of: Self.allowed), "\(work.errors)")
            #expect(work.slowest < Self.patienceSeconds)
            if !work.errors.isEmpty {
                let troubles = try self.troubles(mount)
                #expect(!troubles.isEmpty, "\(refused) refused, \(work.errors): \(mount.troubles())")
                #expect(troubles.allSatisfy { ($0["way_out"] as? String)?.isEmpty == false })
            }

            try set([])
            // What it says is to be done.
            if try troubles(mount).contains(where: { ($0["what"] as? String)?.hasPrefix("writes are refused") == true }) {
                #expect(work.differences(synced: false, mayFail: false) == [], "reads go on")
                _ = try O3FSBinary.run("umount", mount.path)
                try waitFor("the end of the mount") { !mount.isMounted }
                try mount.mount()
            }
            try waitFor("writes to work again") { work.write("probe", sync: true) }
            for index in 0..<20 { #expect(work.write("after \(index)", sync: index % 4 == 0), "\(mount.troubles())") }
            #expect(work.differences(synced: false, mayFail: false) == [], "\(mount.troubles())")
            try mount.losePower()
            try mount.mount()
            #expect(work.differences(synced: true, mayFail: false) == [], "after a loss of power")
            try mount.unmount()
            try O3FSBinary.succeed("check", mount.store)
            print(
                "StorageFaultMountTests: \(fault.testDescription): \(refused) of 60 files refused, "
                    + "errors \(work.errors.sorted()), the slowest call \(String(format: "%.1f", work.slowest)) s")
        }
    }
}
