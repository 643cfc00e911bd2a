import Testing

@testable import O3LSM

/// Accounts of who did what, and how busy nodes were.
@Suite struct ExecutorAccountsTests {
    @Test func nothingIsLostWhenWorkersComeAndGo() {
        var accounts = ExecutorAccounts()
        let owner = ExecutorAccounts.Executor(isOwner: true, processID: 1)
        accounts.done(owner, read: 7, written: 5)
        for number in 0..<300 {
            let worker = ExecutorAccounts.Executor(isOwner: false, processID: Int32(1000 + number))
            accounts.done(worker, read: 10, written: 3)
            accounts.failed(worker)
        }
        #expect(accounts.shares.count <= ExecutorAccounts.maximumAccounts + 1)
        #expect(accounts.shares[owner]?.jobs == 1)
        let all = ExecutorAccounts.joined(flush: accounts, compaction: ExecutorAccounts())
        #expect(all.first?.role == "daemon" && all.first?.pid == 1)
        #expect(all.reduce(0) { $0 + $1.flush.jobs } == 301)
        #expect(all.reduce(0) { $0 + $1.flush.failedJobs } == 300)
        #expect(all.reduce(0) { $0 + $1.flush.bytesRead } == 3007)
        #expect(all.reduce(0) { $0 + $1.flush.bytesWritten } == 905)
        #expect(all.contains { $0.pid == 1299 } && !all.contains { $0.pid == 1000 })
    }

    @Test func busySharesFollowTheLoad() throws {
        var loads = NodeLoads()
        func node(_ load: UInt32, _ processID: Int32 = 5) -> NodeTable.Node {
            NodeTable.Node(
                index: 3, role: .worker, processID: processID, startTime: 0, heartbeat: 0, load: load, capacity: 2,
                finished: 0, roles: [], build: 0)
        }
        var now: UInt64 = 1_000_000_000_000
        func pass(_ seconds: Double, _ load: UInt32) {
            for _ in 0..<Int(seconds * 10) {
                now += 100_000_000
                let isTaken = loads.look({ [node(load)] }, now: now)
                #expect(isTaken)
            }
        }
        pass(60, 1)
        #expect(abs(try #require(loads.shares[3]) - 0.5) < 0.01)
        // Whatever stands there, it is a share.
        pass(60, 4_000_000_000)
        #expect(abs(try #require(loads.shares[3]) - 1) < 0.01)
        pass(5, 0)
        // e^-1 of it is left.
        #expect(abs(try #require(loads.shares[3]) - 0.37) < 0.02)
        let isTooEarly = !loads.look({ [] }, now: now + 1)
        let isDue = loads.look({ [node(2, 6)] }, now: now + 100_000_000)
        #expect(isTooEarly && isDue)
        // Another process: its history begins.
        #expect(loads.shares[3] == 0)
    }
}
