/// The numbered files of the write-ahead log: begins new ones (recycled ones if possible, since writing over
/// bytes that are already there makes a sync twice as fast) and releases those that a flush has made
/// unnecessary. Not thread-safe; the log's leader calls it.
final class LogFiles {
    private let layout: StoreLayout
    private let storage: any Storage
    private let fileSize: UInt64

    private struct Closed {
        var number: UInt64
        var lastSequence: SequenceNumber
    }
    /// Ascending.
    private var closed: [Closed] = []
    private var current: (writer: LogWriter, number: UInt64, lastSequence: SequenceNumber)?
    private var nextNumber: UInt64
    /// Files whose contents nobody needs.
    private var recyclable: [UInt64] = []

    private static let maximumRecyclable = 2

    /// Files that were there when the log was opened, ascending: what a recovery reads.
    let recoveredNumbers: [UInt64]

    static func open(layout: StoreLayout, storage: any Storage, fileSize: UInt64) throws(EngineError) -> LogFiles {
        let numbers = try storage.list(layout.logDirectory).filter { $0.hasSuffix(".log") }
            .compactMap(StoreLayout.number).sorted()
        return LogFiles(layout: layout, storage: storage, fileSize: fileSize, numbers: numbers)
    }

    private init(layout: StoreLayout, storage: any Storage, fileSize: UInt64, numbers: [UInt64]) {
        self.layout = layout
        self.storage = storage
        self.fileSize = fileSize
        recoveredNumbers = numbers
        // Until a recovery says what they hold, they are kept.
        closed = numbers.map { Closed(number: $0, lastSequence: .max) }
        nextNumber = (numbers.last ?? 0) + 1
    }

    /// Recovery: the greatest sequence that file holds.
    func setRecoveredLastSequence(_ number: UInt64, _ sequence: SequenceNumber) {
        if let index = closed.firstIndex(where: { $0.number == number }) { closed[index].lastSequence = sequence }
    }

    /// Recovery from DM: nothing in the old files reaches beyond this.
    func setRecoveredLastSequences(_ sequence: SequenceNumber) {
        for index in closed.indices { closed[index].lastSequence = sequence }
    }

    func append(_ payload: UnsafeRawBufferPointer, lastSequence: SequenceNumber) throws(EngineError) {
        if let current, current.writer.size >= fileSize { try finishCurrent() }
        if current == nil { try begin() }
        try current?.writer.append(payload)
        current?.lastSequence = lastSequence
    }

    func sync() throws(EngineError) { try current?.writer.sync() }

    /// Everything up to `sequence` is in tables: files that hold nothing else are recycled or removed.
    func release(through sequence: SequenceNumber) throws(EngineError) {
        let due = closed.filter { $0.lastSequence <= sequence }
        guard !due.isEmpty else { return }
        closed.removeAll { $0.lastSequence <= sequence }
        for file in due {
            if recyclable.count < LogFiles.maximumRecyclable {
                recyclable.append(file.number)
            } else {
                try storage.delete(layout.log(file.number))
            }
        }
    }

    private func finishCurrent() throws(EngineError) {
        guard let current else { return }
        try current.writer.sync()
        try current.writer.close()
        closed.append(Closed(number: current.number, lastSequence: current.lastSequence))
        self.current = nil
    }

    private func begin() throws(EngineError) {
        let number = nextNumber
        let path = layout.log(number)
        let file: any WritableFile
        if recyclable.isEmpty {
            file = try storage.create(path)
        } else {
            let old = recyclable.removeFirst()
            try storage.rename(layout.log(old), to: path)
            file = try storage.reuse(path)
        }
        try storage.syncDirectory(layout.logDirectory)
        nextNumber += 1
        current = (try LogWriter(file: file, logNumber: number, kind: .writeAhead), number, 0)
    }
}
