import Testing

@testable import O3LSM

@Suite struct JobTableTests {
    private func table() throws -> (JobTable, Region) {
        let region = try Region.createPrivate(size: RegionLayout.minimumBytes)
        return (JobTable(region), region)
    }

    @Test func aJobGoesThroughItsLife() throws {
        let (jobs, _) = try table()
        let ticket = try #require(jobs.post(.flush, descriptor: [1, 2, 3]))
        guard case .posted = jobs.outcome(ticket) else { throw EngineError.closed }
        #expect(jobs.claim([.compaction], node: 3, isOwner: false) == nil)
        let claim = try #require(jobs.claim([.compaction, .flush], node: 3, isOwner: false))
        #expect(claim.descriptor == [1, 2, 3] && claim.kind == .flush && jobs.isHeld(claim))
        guard case .claimed(node: 3) = jobs.outcome(ticket) else { throw EngineError.closed }
        #expect(jobs.claim([.flush], node: 4, isOwner: true) == nil)
        #expect(jobs.finish(claim, result: [9]))
        guard case .done(let result, node: 3) = jobs.outcome(ticket) else { throw EngineError.closed }
        #expect(result == [9])
        jobs.release(ticket)
        #expect(!jobs.isHeld(claim))
    }

    /// New jobs come into the first free slots: the old ones behind them must not wait for ever.
    @Test func theOldestJobIsTakenFirst() throws {
        let (jobs, _) = try table()
        let tickets = try (1...3).map { try #require(jobs.post(.flush, descriptor: [UInt8($0)])) }
        jobs.release(tickets[0])
        let newest = try #require(jobs.post(.flush, descriptor: [4]))
        #expect(newest.slot == tickets[0].slot)
        for expected: UInt8 in [2, 3, 4] {
            #expect(try #require(jobs.claim([.flush], node: 1, isOwner: false)).descriptor == [expected])
        }
    }

    @Test func aLateAnswerIsRefused() throws {
        let (jobs, _) = try table()
        let first = try #require(jobs.post(.flush, descriptor: [1]))
        let late = try #require(jobs.claim([.flush], node: 1, isOwner: false))
        // Its lease has run out: the job is given to another node, in the same slot.
        jobs.release(first)
        let second = try #require(jobs.post(.flush, descriptor: [2]))
        #expect(second.slot == first.slot)
        let other = try #require(jobs.claim([.flush], node: 2, isOwner: false))
        #expect(!jobs.finish(late, result: [66]))
        jobs.fail(late, "5 too late")
        guard case .claimed(node: 2) = jobs.outcome(second) else { throw EngineError.closed }
        #expect(jobs.finish(other, result: [7]))
        guard case .done([7], node: 2) = jobs.outcome(second) else { throw EngineError.closed }
        #expect(!jobs.finish(late, result: [66]))
        guard case .done([7], node: 2) = jobs.outcome(second) else { throw EngineError.closed }
        // After a restart of the owner nothing of before counts.
        jobs.reset()
        #expect(!jobs.finish(other, result: [8]))
    }

    @Test func anotherJobsResultIsNotTakenForThisOnes() throws {
        let (jobs, region) = try table()
        let first = try #require(jobs.post(.flush, descriptor: [1]))
        let late = try #require(jobs.claim([.flush], node: 1, isOwner: false))
        #expect(jobs.finish(late, result: [66]))
        let row = region.base + RegionLayout.Job.offset + first.slot * RegionLayout.Job.bytes
        let old = [UInt8](UnsafeRawBufferPointer(start: row, count: RegionLayout.Job.bytes))
        jobs.release(first)
        let second = try #require(jobs.post(.flush, descriptor: [2]))
        let claim = try #require(jobs.claim([.flush], node: 2, isOwner: false))
        #expect(jobs.finish(claim, result: [7]))
        // What a process that was held up in the middle of its answer may write when it goes on.
        for field in [RegionLayout.Job.resultBytes, RegionLayout.Job.resultChecksum, RegionLayout.Job.result] {
            for byte in field..<(field + 4) { row.storeBytes(of: old[byte], toByteOffset: byte, as: UInt8.self) }
        }
        guard case .lost = jobs.outcome(second) else { throw EngineError.closed }
    }

    @Test func jobsAreLeftToWorkersForAWhile() throws {
        let (jobs, _) = try table()
        _ = try #require(jobs.post(.flush, descriptor: [1]))
        _ = try #require(jobs.post(.flush, descriptor: [2], isLocal: true))
        // What only the owner can do it does at once.
        let own = try #require(jobs.claim([.flush], node: 0, isOwner: true) { _ in 1_000_000_000_000 })
        #expect(own.descriptor == [2])
        #expect(jobs.claim([.flush], node: 0, isOwner: true) { _ in 1_000_000_000_000 } == nil)
        #expect(jobs.claim([.flush], node: 5, isOwner: false)?.descriptor == [1])
    }

    @Test func aDamagedDescriptorIsAFailureOfItsJob() throws {
        let (jobs, region) = try table()
        let ticket = try #require(jobs.post(.compaction, descriptor: Array(0..<100)))
        let row = region.base + RegionLayout.Job.offset + ticket.slot * RegionLayout.Job.bytes
        row.storeBytes(of: 77, toByteOffset: RegionLayout.Job.descriptor + 50, as: UInt8.self)
        #expect(jobs.claim([.compaction], node: 1, isOwner: false) == nil)
        guard case .failed = jobs.outcome(ticket) else { throw EngineError.closed }
    }

    @Test func theTableFillsAndEmpties() throws {
        let (jobs, _) = try table()
        let tickets = (0..<RegionLayout.Job.count).compactMap { _ in jobs.post(.flush, descriptor: []) }
        #expect(tickets.count == RegionLayout.Job.count)
        #expect(jobs.post(.flush, descriptor: []) == nil)
        #expect(Set(tickets.map(\.generation)).count == tickets.count)
        jobs.release(tickets[5])
        #expect(jobs.post(.flush, descriptor: [])?.slot == tickets[5].slot)
        #expect(!JobTable.fits([UInt8](repeating: 0, count: RegionLayout.Job.maximumDescriptorBytes + 1)))
    }

    @Test func aRowIsNotReusedWhileItsDeadProcessHoldsAJob() throws {
        let (jobs, region) = try table()
        let nodes = NodeTable(region)
        let dead = try #require(nodes.attach(role: .worker, roles: [.flush], capacity: 1))
        let ticket = try #require(jobs.post(.flush, descriptor: [1]))
        _ = try #require(jobs.claim([.flush], node: dead, isOwner: false))
        // No process has started at this time: the row's process is dead.
        let row = region.base + RegionLayout.Node.offset + dead * RegionLayout.Node.bytes
        row.storeBytes(of: 1, toByteOffset: RegionLayout.Node.startTime, as: UInt64.self)
        let next = try #require(nodes.attach(role: .worker, roles: [.flush], capacity: 1))
        #expect(next != dead, "the claim of the dead would seem to be the newcomer's")
        jobs.release(ticket)
        #expect(nodes.attach(role: .worker, roles: [.flush], capacity: 1) == dead)
        _ = region
    }
}
