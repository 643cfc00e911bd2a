import CSystem
import Synchronization

/// A worker's side of delegated reads: answers what stands in its ring from sealed memtables in DM. For one thread.
///
/// It reads the memtables where they lie. Their owner keeps them for as long as it waits; when it has given up, their
/// slabs may become others' under a lookup, which then finds anything, within the region, and whose answer is refused
/// by the number of its request.
final class ReadServer {
    private let region: Region
    private let ring: ReadRing
    private let directory: MemtableDirectory
    /// Memtables that were asked for lately, in the life of the owner that asked.
    private var views: [MemtableName: Memtable] = [:]
    private var life: UInt64 = 0

    /// How long it looks for the next request before it sleeps: the time of a wake-up or two.
    private static let spinNanoseconds: UInt64 = 100_000
    private static let sleepMilliseconds = 200
    private static let maximumViews = RegionLayout.MemtableSlot.count

    init(_ region: Region, _ ring: ReadRing) {
        self.region = region
        self.ring = ring
        directory = MemtableDirectory(region)
    }

    /// A ring that nobody serves, now served by this process; nil when there is none.
    static func takeRing(_ region: Region) -> ReadRing? {
        for index in 0..<RegionLayout.Ring.count {
            let ring = ReadRing(region, index: index)
            if ring.take() { return ring }
        }
        return nil
    }

    /// Serves until `isOver`, which `ReadRing.wakeServer` makes it look at.
    func run(until isOver: () -> Bool) {
        var idleSince = monotonicNanoseconds()
        while !isOver() {
            if ring.serve({ request, room in answer(request, room) }) {
                idleSince = monotonicNanoseconds()
                continue
            }
            for _ in 0..<32 { o3_cpu_relax() }
            if monotonicNanoseconds() - idleSince > Self.spinNanoseconds {
                ring.sleep(milliseconds: Self.sleepMilliseconds)
                idleSince = monotonicNanoseconds()
            }
        }
    }

    /// Answers one request.
    ///
    /// - Returns: the length of the answer; nil for a request that cannot be read.
    func answer(_ request: UnsafeRawBufferPointer, _ room: UnsafeMutableRawBufferPointer) -> Int? {
        var reader = MessageReader(request)
        switch reader.number(UInt8.self) {
        case ReadMessage.lookup: return lookup(&reader, room)
        case ReadMessage.range: return range(&reader, room)
        default: return nil
        }
    }

    private func lookup(_ reader: inout MessageReader, _ room: UnsafeMutableRawBufferPointer) -> Int? {
        guard let count = reader.number(UInt8.self), count >= 1, count <= ReadMessage.maximumMemtables,
            let keys = reader.number(UInt16.self), reader.number(UInt32.self) != nil,
            let sequence = reader.number(UInt64.self), sequence <= maximumSequenceNumber,
            let life = reader.number(UInt64.self),
            Int(keys) * ReadMessage.answerHeadBytes <= room.count
        else { return nil }
        forgetOthers(than: life)
        var memtables: [Memtable?] = []
        for _ in 0..<count {
            guard let name = Self.name(&reader) else { return nil }
            memtables.append(view(name))
        }
        var writer = MessageWriter(room)
        for index in 0..<Int(keys) {
            guard let length = reader.number(UInt16.self), let asked = reader.number(UInt8.self),
                reader.number(UInt8.self) != nil, let key = reader.take(Int(length)), Int(asked) <= memtables.count
            else { return nil }
            var answer = find(key, sequence, memtables.prefix(Int(asked)))
            let left = writer.room - (Int(keys) - index) * ReadMessage.answerHeadBytes
            if answer.state == .value, answer.value.count > left { answer.state = .place }
            writer.answer(answer)
        }
        return writer.position
    }

    /// The newest entry of a key in memtables from new to old.
    private func find(_ key: UnsafeRawBufferPointer, _ sequence: SequenceNumber, _ memtables: ArraySlice<Memtable?>)
        -> ReadAnswer
    {
        let hash = hashKey(key)
        for (index, memtable) in memtables.enumerated() {
            guard let memtable else { return ReadAnswer(state: .unknown) }
            guard memtable.filter.mayContain(hash) else { continue }
            let shard = memtable.map.shards[memtable.map.route(key)]
            guard !shard.isEmpty else { continue }
            let (offset, found) = memtable.walk(shard, key, sequence)
            if shard.corruptionMet != nil {
                // The owner meets it itself, and says so. The next look begins anew.
                views = views.filter { $0.value !== memtable }
                return ReadAnswer(state: .unknown)
            }
            var answer = ReadAnswer(state: .notFound, memtable: index, shard: shard.index, offset: offset)
            switch found {
            case .notFound: continue
            case .deleted(let sequence):
                answer.state = .deleted
                answer.sequence = sequence & maximumSequenceNumber
            case .put(let value, let sequence):
                answer.state = .value
                answer.sequence = sequence & maximumSequenceNumber
                answer.value = value.bytes
            }
            return answer
        }
        return ReadAnswer(state: .notFound)
    }

    private func range(_ reader: inout MessageReader, _ room: UnsafeMutableRawBufferPointer) -> Int? {
        guard reader.number(UInt8.self) != nil, let most = reader.number(UInt16.self),
            let length = reader.number(UInt32.self), let trailer = reader.number(UInt64.self),
            let life = reader.number(UInt64.self), let name = Self.name(&reader),
            let key = reader.take(Int(length))
        else { return nil }
        forgetOthers(than: life)
        var writer = MessageWriter(room)
        writer.number(UInt32(0))
        writer.number(UInt32(0))
        guard let memtable = view(name) else {
            writer.overwrite(ReadMessage.unknownRange, at: 4)
            return writer.position
        }
        let map = memtable.map
        var count: UInt32 = 0
        var position = map.route(key)
        let first = position
        do throws(EngineError) {
            while position < map.shards.count {
                let shard = map.shards[position]
                defer { position += 1 }
                if shard.isEmpty { continue }
                let cursor = ShardIterator(shard, owner: memtable)
                if position == first { try cursor.seek(key, Trailer(rawValue: trailer)) } else { try cursor.seekToFirst() }
                while let entry = cursor.entry {
                    let key = entry.key
                    let value = entry.value
                    guard count < most, writer.room >= ReadMessage.entryHeadBytes + key.count else {
                        writer.overwrite(count, at: 0)
                        return writer.position
                    }
                    let isInline = writer.room >= ReadMessage.entryHeadBytes + key.count + value.count
                    // A long value ends the answer, unless the answer would be empty: then it is read where it lies.
                    if !isInline, count > 0 {
                        writer.overwrite(count, at: 0)
                        return writer.position
                    }
                    writer.number(entry.trailer.rawValue)
                    writer.number(UInt32(key.count))
                    writer.number(UInt32(value.count))
                    writer.number(cursor.entryOffset)
                    writer.number(UInt16(shard.index))
                    writer.number(UInt16(isInline ? 1 : 0))
                    writer.put(key)
                    if isInline { writer.put(value) }
                    count += 1
                    try cursor.next()
                }
            }
        } catch {
            views[name] = nil
            return nil
        }
        writer.overwrite(count, at: 0)
        writer.overwrite(ReadMessage.lastRange, at: 4)
        return writer.position
    }

    // MARK: Memtables

    private static func name(_ reader: inout MessageReader) -> MemtableName? {
        guard let id = reader.number(UInt64.self), let slot = reader.number(UInt32.self),
            reader.number(UInt32.self) != nil, slot < RegionLayout.MemtableSlot.count
        else { return nil }
        return MemtableName(id: id, slot: slot)
    }

    /// The memtable, if it is sealed in its slot.
    private func view(_ name: MemtableName) -> Memtable? {
        let slot = Int(name.slot)
        guard [.sealed, .flushing].contains(directory.state(slot)), directory.memtableID(slot) == name.id else {
            views[name] = nil
            return nil
        }
        if let known = views[name] { return known }
        if views.count >= Self.maximumViews { views.removeAll() }
        // What cannot be attached is left to its owner.
        let made = try? Memtable.attach(
            region: region, slot: slot, allocator: SlabAllocator(slabCount: region.slabCount), isReader: true
        ) { _ in true }
        views[name] = made
        return made
    }

    /// A new owner may have mended memtables that it found.
    private func forgetOthers(than life: UInt64) {
        guard life != self.life else { return }
        views.removeAll()
        self.life = life
    }
}
