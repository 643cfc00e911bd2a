import CSystem
import Glibc
import Synchronization

/// Makes published entries survive power loss. It is off the write path: it follows the published sequence
/// and appends straight from DM.
///
/// One thread at a time leads: it writes everything that is published and syncs once, for itself and for
/// all that wait meanwhile (group commit). A sequence is durable when it is in the synced log or in a
/// flushed memtable, whichever comes first. Thread-safe.
final class WriteAheadLog: @unchecked Sendable {
    // @unchecked: `leader` guards the collector, the record and the files.
    private let region: Region
    private let options: Options
    private let files: LogFiles
    private let versions: VersionSet

    private struct Leader: ~Copyable {
        var collector: LogCollector
        var record = LogRecordBuilder()
        /// Whether everything that was appended has been synced.
        var isSynced = true
    }
    private let leader: Mutex<Leader>
    /// Everything up to this sequence survives power loss.
    private let durable: Atomic<UInt64>
    /// Everything up to this sequence survives the death of processes without DM: it is in a file of the log.
    private let appended: Atomic<UInt64>

    /// Everything up to this sequence is in tables.
    private let flushedSequence = Atomic<UInt64>(0)

    private let bytesWritten = Atomic<UInt64>(0)
    private let syncs = Atomic<UInt64>(0)
    private let requests = Atomic<UInt64>(0)

    /// One record holds about this much; a large batch makes a larger one.
    private static let recordBytes = 1 << 20

    init(
        region: Region, options: Options, files: LogFiles, versions: VersionSet, holder: ReadStateHolder,
        durableSequence: SequenceNumber
    ) {
        self.versions = versions
        self.region = region
        self.options = options
        self.files = files
        leader = Mutex(
            Leader(collector: LogCollector(holder: holder, region: region, position: durableSequence)))
        durable = Atomic(durableSequence)
        appended = Atomic(durableSequence)
    }

    var durableSequence: SequenceNumber { durable.load(ordering: .acquiring) }

    /// Returns when everything that is visible now survives power loss.
    ///
    /// - Throws: the error of the log. What the kernel has dropped after a failed sync cannot be known, so the
    ///   next call begins a new file and writes into it, from DM, all that is not durable.
    func sync() throws(EngineError) {
        requests.wrappingAdd(1, ordering: .relaxed)
        // The log goes on from what is in tables.
        try versions.settle()
        let wanted = region.visibleSequence
        if durable.load(ordering: .acquiring) >= wanted { return }
        try bringUpToDate(wanted, andSync: true)
    }

    /// Returns when everything up to `sequence`, which is visible, is in a file of the log: it survives the
    /// death of every process, though not power loss. Concurrent calls share the work.
    ///
    /// - Throws: as `sync`.
    func append(through sequence: SequenceNumber) throws(EngineError) {
        try versions.settle()
        if appended.load(ordering: .acquiring) >= sequence { return }
        try bringUpToDate(sequence, andSync: false)
    }

    /// A flush has made everything up to `sequence` durable: the log may forget it. Does not wait for whoever writes the
    /// log, which may take a minute when it has fallen behind: that one takes note before its next record.
    func flushed(through sequence: SequenceNumber) throws(EngineError) {
        WriteAheadLog.raise(flushedSequence, to: sequence)
        raiseDurable(to: sequence)
        try tidy()
    }

    /// Writes nothing any more of what flushes have made durable, and lets go of the memory it is in; files that hold
    /// nothing else go.
    private func forgetFlushed(_ leader: inout Leader) throws(EngineError) {
        leader.collector.skip(to: durableSequence)
        try files.release(through: flushedSequence.load(ordering: .acquiring))
    }

    /// Lets go of what flushes have made durable, unless somebody writes the log. To be called now and then, for whoever
    /// wrote it while a flush was committed may have looked before.
    ///
    /// - Throws: why a file of the log could not be released; it is tried again.
    func tidy() throws(EngineError) {
        let outcome = leader.withLockIfAvailable { leader -> Result<Void, EngineError> in
            do throws(EngineError) {
                try forgetFlushed(&leader)
                return .success(())
            } catch { return .failure(error) }
        }
        try outcome?.get()
    }

    /// At the end, when everything is in tables: the log's files are removed.
    func removeFiles() { leader.withLock { _ in files.removeAll() } }

    /// Recovery: the greatest sequence that an old file holds; 0 if it holds none.
    func setRecoveredLastSequence(_ number: UInt64, _ sequence: SequenceNumber) {
        leader.withLock { _ in files.setRecoveredLastSequence(number, sequence) }
    }

    func statistics() -> Statistics.Log {
        var log = Statistics.Log()
        log.bytesWritten = bytesWritten.load(ordering: .relaxed)
        log.syncs = syncs.load(ordering: .relaxed)
        log.syncRequests = requests.load(ordering: .relaxed)
        log.syncedSequence = durableSequence
        return log
    }

    private func bringUpToDate(_ wanted: SequenceNumber, andSync mustSync: Bool) throws(EngineError) {
        let outcome = leader.withLock { leader -> Result<Void, EngineError> in
            // Whoever led while this thread waited may have done its work.
            let reached = mustSync ? durable.load(ordering: .acquiring) : appended.load(ordering: .acquiring)
            if reached >= wanted { return .success(()) }
            do throws(EngineError) {
                if let damage = try write(&leader, andSync: mustSync) { return .failure(damage) }
                return .success(())
            } catch {
                let durable = durableSequence
                files.abandonCurrent(promised: error.isOutOfSpace ? appended.load(ordering: .acquiring) : nil)
                leader.collector.rewind(to: durable)
                return .failure(error)
            }
        }
        try outcome.get()
    }

    /// Writes what is published, and syncs it if it must.
    ///
    /// - Returns: what is wrong with memory; everything before that was written.
    /// - Throws: why storage could not take it.
    private func write(_ leader: inout Leader, andSync mustSync: Bool) throws(EngineError) -> EngineError? {
        let end = region.visibleSequence
        var damage: EngineError?
        var targetBytes = Self.recordBytes
        // What cannot be released is no failure of the log; the next flush tries again, and tells.
        defer { try? forgetFlushed(&leader) }
        while leader.collector.position < end {
            try? forgetFlushed(&leader)
            leader.record.clear()
            let reached = leader.collector.position
            do throws(EngineError) {
                guard
                    try leader.collector.collect(
                        into: &leader.record, upTo: end, targetBytes: targetBytes)
                else { break }
            } catch {
                leader.collector.rewind(to: reached)
                if targetBytes > 1 {
                    // Batch by batch, up to the damaged one.
                    targetBytes = 1
                    continue
                }
                damage = error
                break
            }
            try files.append(leader.record.payload, sequences: leader.record.sequences)
            bytesWritten.wrappingAdd(UInt64(leader.record.count), ordering: .relaxed)
            leader.isSynced = false
        }
        if mustSync, !leader.isSynced {
            FaultPoint.midLogWrite.hit()
            try files.sync()
            leader.isSynced = true
            syncs.wrappingAdd(1, ordering: .relaxed)
        } else if !mustSync {
            try files.flush()
        }
        WriteAheadLog.raise(appended, to: leader.collector.position)
        if leader.isSynced {
            WriteAheadLog.raise(durable, to: leader.collector.position)
            region.noteDurable(leader.collector.position)
        }
        return damage
    }

    private func raiseDurable(to sequence: SequenceNumber) {
        WriteAheadLog.raise(durable, to: sequence)
        WriteAheadLog.raise(appended, to: sequence)
    }

    private static func raise(_ word: borrowing Atomic<UInt64>, to sequence: SequenceNumber) {
        var current = word.load(ordering: .relaxed)
        while current < sequence {
            let (exchanged, original) = word.compareExchange(
                expected: current, desired: sequence, ordering: .releasing)
            if exchanged { return }
            current = original
        }
    }
}
