import Glibc
import Testing

@testable import FUSE

/// What a session is on a kernel that can send requests again, and on one that cannot.
@Suite struct ResendSessionTests {
    /// Bytes of a request's header.
    private let header = 40

    /// An INIT request with these two words of flags, `length` bytes of it.
    private func request(_ flags: UInt32, _ more: UInt32, length: Int = 104) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 104)
        bytes.withUnsafeMutableBytes {
            $0.storeBytes(of: 7, toByteOffset: header, as: UInt32.self)
            $0.storeBytes(of: 38, toByteOffset: header + 4, as: UInt32.self)
            $0.storeBytes(of: flags, toByteOffset: header + 12, as: UInt32.self)
            $0.storeBytes(of: more, toByteOffset: header + 16, as: UInt32.self)
        }
        return Array(bytes.prefix(length))
    }

    @Test func theKernelSaysWhetherItSendsAgain() {
        let (extended, resend): (UInt32, UInt32) = (1 << 30, 1 << 7)
        #expect(Resend.isOffered(in: request(extended, resend)))
        #expect(Resend.isOffered(in: request(.max, .max)))
        // Linux before 6.9; one that has no second word, whatever lies there; a request of an old kernel.
        #expect(!Resend.isOffered(in: request(.max, ~resend)))
        #expect(!Resend.isOffered(in: request(~extended, .max)))
        for length in 0..<(header + 20) {
            #expect(!Resend.isOffered(in: request(.max, .max, length: length)))
        }
    }

    @Test(.enabled(if: TestMount.isPossible), arguments: [true, false])
    func withoutItTheSessionIsHeldByNobody(isOld: Bool) throws {
        let mount = try TestMount {
            $0.outlivesProcess = true
            $0.ignoresResend = isOld
        }
        let held = mount.session.held
        if isOld {
            #expect(held == nil)
        } else if let held {
            #expect(Resend.isOffered(in: held.initialization) && held.descriptors.count == 5)
        }
        #expect(mount.session.resentRequests == 0 && !mount.session.isLeft)
        try writeFile(mount["file"], [1, 2, 3])
        #expect(try readFile(mount["file"]) == [1, 2, 3])
        mount.end()
        #expect(MountTable.entry(at: mount.session.mountPoint) == nil)
    }
}
