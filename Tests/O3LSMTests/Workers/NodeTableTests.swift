import Foundation
import Glibc
import Testing

@testable import O3LSM

@Suite struct NodeTableTests {
    private static func state(_ region: Region, _ index: Int) -> UnsafeMutableRawPointer {
        region.base + RegionLayout.Node.offset + index * RegionLayout.Node.bytes + RegionLayout.Node.state
    }

    /// A process may die while it fills its row: the row must not be lost.
    @Test func theRowOfAProcessThatDiedWhileAttachingIsFree() throws {
        let region = try Region.createPrivate(size: RegionLayout.minimumBytes)
        let dead = Process()
        dead.executableURL = URL(fileURLWithPath: "/bin/true")
        try dead.run()
        dead.waitUntilExit()
        for index in 0..<RegionLayout.Node.count {
            sharedWord32(Self.state(region, index)).pointee.store(
                NodeTable.attachingState(of: dead.processIdentifier), ordering: .releasing)
        }
        #expect(NodeTable(region).attachedRows().isEmpty)
        #expect(NodeTable(region).attach(role: .worker) == 0)
        // One that lives is left alone.
        sharedWord32(Self.state(region, 1)).pointee.store(NodeTable.attachingState(of: getpid()), ordering: .releasing)
        #expect(NodeTable(region).attach(role: .worker) == 2)
    }
}
