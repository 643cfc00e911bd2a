/// The numbered files of the write-ahead log: begins new ones (recycled ones if possible, since writing over
/// bytes that are already there makes a sync twice as fast) and releases those that a flush has made
/// unnecessary. Not thread-safe; the log's leader calls it.
final class LogFiles {
    private let layout: StoreLayout
    private let storage: any Storage
    private let fileSize: UInt64

    private struct Closed {
        var number: UInt64
        /// The greatest sequence in the file; `.max` while nobody has said.
        var lastSequence: SequenceNumber
    }
    /// Ascending.
    private var closed: [Closed] = []
    private var current: Current?
    private struct Current {
        var writer: LogWriter
        var number: UInt64
        /// Of the records in it; 0 while there are none.
        var firstSequence: SequenceNumber = 0
        var lastSequence: SequenceNumber = 0
    }
    private var nextNumber: UInt64
    /// Files whose contents nobody needs; they have the names of free logs, so that nobody takes them for others.
    private var recyclable: [UInt64] = []

    private static let maximumRecyclable = 2
    /// No store comes to numbers from here on: a name with one is not that of a log, and none is given after it.
    private static let strangeNumbers = UInt64.max / 2

    /// Files that were there when the log was opened, ascending: what a recovery reads. Released like others
    /// once `setRecoveredLastSequence` has said what they hold.
    let recoveredNumbers: [UInt64]

    /// Finds the log files of a store and syncs them: after the death of a process they may hold records that were
    /// never synced, and most likely survive power loss from here on. Nobody may rely on it: a sync of the last owner that
    /// failed has dropped what it should have written, and this one says nothing of it.
    ///
    /// - Parameters:
    ///   - fileSize: bytes after which the next file is begun.
    ///   - isReadOnly: nothing will be written.
    static func open(
        layout: StoreLayout, storage: any Storage, fileSize: UInt64, isReadOnly: Bool = false
    ) throws(EngineError) -> LogFiles {
        var numbers: [UInt64] = []
        var free: UInt64 = 0
        for name in try storage.list(layout.logDirectory) {
            // Free logs of the last owner are removed: nothing says how recent what is left in them is.
            if name.hasSuffix(StoreLayout.freeSuffix), let number = StoreLayout.number(in: name) {
                if number < strangeNumbers { free = max(free, number) }
                if !isReadOnly { try storage.delete(layout.logDirectory + "/" + name) }
            }
            guard name.hasSuffix(".log"), let number = StoreLayout.number(in: name), number < strangeNumbers,
                layout.log(number) == layout.logDirectory + "/" + name
            else { continue }
            numbers.append(number)
        }
        numbers.sort()
        for number in numbers where !isReadOnly {
            let file = try storage.reuse(layout.log(number))
            try file.sync()
            try file.close()
        }
        if !numbers.isEmpty, !isReadOnly { try storage.syncDirectory(layout.logDirectory) }
        let next = max(numbers.last ?? 0, free) + 1
        return LogFiles(layout: layout, storage: storage, fileSize: fileSize, numbers: numbers, next: next)
    }

    private init(layout: StoreLayout, storage: any Storage, fileSize: UInt64, numbers: [UInt64], next: UInt64) {
        self.layout = layout
        self.storage = storage
        self.fileSize = fileSize
        recoveredNumbers = numbers
        closed = numbers.map { Closed(number: $0, lastSequence: .max) }
        nextNumber = next
    }

    /// Recovery: the greatest sequence that the file holds; 0 if it holds none.
    func setRecoveredLastSequence(_ number: UInt64, _ sequence: SequenceNumber) {
        if let index = closed.firstIndex(where: { $0.number == number }) { closed[index].lastSequence = sequence }
    }

    /// Recovery from DM: nothing in the old files reaches beyond this.
    func setRecoveredLastSequences(_ sequence: SequenceNumber) {
        for index in closed.indices where recoveredNumbers.contains(closed[index].number) {
            closed[index].lastSequence = sequence
        }
    }

    /// Appends one record to the newest file, or to a new one when that is full.
    ///
    /// - Parameter sequences: those of the record.
    func append(
        _ payload: UnsafeRawBufferPointer, sequences: ClosedRange<SequenceNumber>
    ) throws(EngineError) {
        if let current, current.writer.size >= fileSize { try finishCurrent() }
        if current == nil { try begin() }
        if current?.firstSequence == 0 { current?.firstSequence = sequences.lowerBound }
        current?.lastSequence = sequences.upperBound
        try current?.writer.append(payload)
    }

    /// Returns when everything that was appended survives the death of this process.
    func flush() throws(EngineError) { try current?.writer.flush() }

    /// Returns when everything that was appended survives power loss.
    func sync() throws(EngineError) { try current?.writer.sync() }

    /// Everything up to `sequence` is in tables: files that hold nothing else are recycled or removed.
    ///
    /// - Throws: why one of them could not be; the others have been.
    func release(through sequence: SequenceNumber) throws(EngineError) {
        var failure: EngineError?
        closed.removeAll { file in
            guard file.lastSequence <= sequence else { return false }
            do throws(EngineError) {
                if recyclable.count < LogFiles.maximumRecyclable {
                    try storage.rename(layout.log(file.number), to: layout.freeLog(file.number))
                    recyclable.append(file.number)
                } else {
                    try storage.delete(layout.log(file.number))
                }
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
    }

    /// Everything that was ever appended is in tables, and nothing will be: removes all files, the oldest first. Best
    /// effort: the next owner finds that it needs none of what stays.
    func removeAll() {
        for number in recyclable { try? storage.delete(layout.freeLog(number)) }
        for file in closed { try? storage.delete(layout.log(file.number)) }
        if let current {
            try? current.writer.close()
            try? storage.delete(layout.log(current.number))
        }
        (recyclable, closed, current) = ([], [], nil)
    }

    /// After a failed append or sync: what is in the newest file stays readable up to where it got, and the next
    /// record begins a new file, which is to repeat what the last sync did not cover.
    ///
    /// - Parameter promised: nil, or the disk is full: then a file that holds nothing but what lies beyond this sequence,
    ///   of which nobody was told that the log has it, goes. Those of many tries would take the room that comes free.
    func abandonCurrent(promised: SequenceNumber? = nil) {
        guard let current else { return }
        self.current = nil
        if let promised, current.firstSequence > promised || current.firstSequence == 0 {
            try? current.writer.close()
            do throws(EngineError) { return try storage.delete(layout.log(current.number)) } catch {}
        }
        closed.append(Closed(number: current.number, lastSequence: current.lastSequence))
    }

    /// A file is synced before the next one is begun: unless it was abandoned, only the newest has a torn tail.
    private func finishCurrent() throws(EngineError) {
        guard let current else { return }
        try current.writer.sync()
        try current.writer.close()
        closed.append(Closed(number: current.number, lastSequence: current.lastSequence))
        self.current = nil
    }

    /// Begins the next file. Its name is on storage before its first byte is written, so that a recycled file
    /// is never found under its old name with a part of its new contents; its header is before the first record.
    ///
    /// Each attempt takes a number of its own: when the directory could not be synced, the name may never get to
    /// storage, whatever later syncs say.
    private func begin() throws(EngineError) {
        let number = nextNumber
        nextNumber += 1
        do throws(EngineError) {
            let writer = try LogWriter(file: try makeFile(number), logNumber: number, kind: .writeAhead)
            try writer.sync()
            current = Current(writer: writer, number: number)
        } catch {
            // Nothing is in it yet.
            try? storage.delete(layout.log(number))
            throw error
        }
    }

    private func makeFile(_ number: UInt64) throws(EngineError) -> any WritableFile {
        let path = layout.log(number)
        guard let old = recyclable.first else {
            let file = try storage.create(path)
            try storage.syncDirectory(layout.logDirectory)
            return file
        }
        try storage.rename(layout.freeLog(old), to: path)
        recyclable.removeFirst()
        try storage.syncDirectory(layout.logDirectory)
        return try storage.reuse(path)
    }
}
