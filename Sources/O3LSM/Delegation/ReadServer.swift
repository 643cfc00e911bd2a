import CSystem
import Glibc
import Synchronization

/// A worker's side of delegated reads: answers what stands in its ring from sealed memtables in DM. For one thread.
///
/// It reads the memtables where they lie. Their owner keeps them for as long as it waits; when it has given up, their
/// slabs may become others' under a lookup, which then finds anything. Therefore every offset is checked against its
/// slab and every walk has a limit (`Shard.maximumSteps`, keys in order); a length that changes behind its check leads
/// out of a slab but never out of the region (`isWithin`, `view`); and the answer is that nothing is known unless all
/// memtables are in their places still when it is complete. The number of its request refuses it besides.
final class ReadServer {
    private let region: Region
    private let ring: ReadRing
    private let directory: MemtableDirectory
    /// Memtables that were asked for lately, in the life of the owner that asked.
    private var views: [MemtableName: Memtable] = [:]
    private var life: UInt64 = 0

    /// How long it looks for the next request before it sleeps: the time of a wake-up or two.
    private static let spinNanoseconds: UInt64 = 100_000
    /// From when on it lets others have the processor in between.
    private static let politeNanoseconds: UInt64 = 5_000
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
            let idle = monotonicNanoseconds() - idleSince
            // Who asks may have only this processor.
            if idle > Self.politeNanoseconds { sched_yield() }
            if idle > Self.spinNanoseconds {
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
        var names: [MemtableName] = []
        var memtables: [Memtable?] = []
        for _ in 0..<count {
            guard let name = Self.name(&reader) else { return nil }
            names.append(name)
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
        guard haveStayed(names, memtables) else {
            writer = MessageWriter(room)
            for _ in 0..<keys { writer.answer(ReadAnswer(state: .unknown)) }
            return writer.position
        }
        return writer.position
    }

    /// Whether all memtables that were found have been where they were until now, so that what was read is theirs.
    private func haveStayed(_ names: [MemtableName], _ memtables: [Memtable?]) -> Bool {
        atomicMemoryFence(ordering: .acquiring)
        return zip(names, memtables).allSatisfy { $1 == nil || isSealed($0) }
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
            // Its links may lead round in circles, once for each key.
            guard shard.corruptionMet == nil else { return ReadAnswer(state: .unknown) }
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
                guard isWithin(value.bytes) else { return ReadAnswer(state: .unknown) }
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
        guard write(memtable, from: key, Trailer(rawValue: trailer), atMost: most, &writer) else {
            views[name] = nil
            return nil
        }
        if !haveStayed([name], [memtable]) {
            writer = MessageWriter(room)
            writer.number(UInt32(0))
            writer.number(ReadMessage.unknownRange)
        }
        return writer.position
    }

    /// Writes entries of a memtable and how many they are.
    ///
    /// - Returns: false when it is damaged.
    private func write(
        _ memtable: Memtable, from key: UnsafeRawBufferPointer, _ trailer: Trailer, atMost most: UInt16,
        _ writer: inout MessageWriter
    ) -> Bool {
        var count: UInt32 = 0
        defer { writer.overwrite(count, at: 0) }
        let map = memtable.map
        let first = map.route(key)
        do throws(EngineError) {
            for position in first..<map.shards.count {
                let shard = map.shards[position]
                if shard.isEmpty { continue }
                let cursor = ShardIterator(shard, owner: memtable)
                if position == first { try cursor.seek(key, trailer) } else { try cursor.seekToFirst() }
                while let entry = cursor.entry {
                    let key = entry.key
                    let value = entry.value
                    guard isWithin(value) else { return false }
                    let bytes = ReadMessage.entryHeadBytes + key.count
                    let isInline = writer.room >= bytes + value.count
                    // A long value ends the answer, unless the answer would be empty: then it is read where it lies.
                    guard count < most, writer.room >= bytes, isInline || count == 0 else { return true }
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
            return false
        }
        writer.overwrite(ReadMessage.lastRange, at: 4)
        return true
    }

    // MARK: Memtables

    private static func name(_ reader: inout MessageReader) -> MemtableName? {
        guard let id = reader.number(UInt64.self), let slot = reader.number(UInt32.self),
            reader.number(UInt32.self) != nil, slot < RegionLayout.MemtableSlot.count
        else { return nil }
        return MemtableName(id: id, slot: slot)
    }

    private func isSealed(_ name: MemtableName) -> Bool {
        let slot = Int(name.slot)
        let state = directory.state(slot)
        return (state == .sealed || state == .flushing) && directory.memtableID(slot) == name.id
    }

    /// Whether bytes lie in the region.
    private func isWithin(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let start = bytes.baseAddress else { return true }
        let end = UnsafeRawPointer(region.base + region.size)
        return start >= UnsafeRawPointer(region.base) && start <= end && bytes.count <= end - start
    }

    /// Whether a key of whatever length fits into the region behind the end of any slab of the memtable. Values may be
    /// longer: `isWithin`.
    private func hasRoomBehind(_ memtable: Memtable) -> Bool {
        let end = region.base + region.size
        return memtable.map.shards.allSatisfy { shard in
            (0..<shard.slabCount.load(ordering: .relaxed)).allSatisfy { end - shard.bases[$0] >= 2 * RegionLayout.slabBytes }
        }
    }

    /// The memtable, if it is sealed in its slot.
    private func view(_ name: MemtableName) -> Memtable? {
        let slot = Int(name.slot)
        guard isSealed(name) else {
            views[name] = nil
            return nil
        }
        if let known = views[name] { return known }
        if views.count >= Self.maximumViews { views.removeAll() }
        // What cannot be attached is left to its owner.
        let made = try? Memtable.attach(
            region: region, slot: slot, allocator: SlabAllocator(slabCount: region.slabCount), isReader: true
        ) { _ in true }
        if let made, !hasRoomBehind(made) { return nil }
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
