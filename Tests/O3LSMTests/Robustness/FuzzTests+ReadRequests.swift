import Glibc
import Testing

@testable import O3LSM

/// What a worker that serves reads takes from others: requests, and the memtables that they name.
extension FuzzTests {
    private static func key(_ number: Int) -> [UInt8] { Array("key\(100_000 + number)".utf8) }

    private static func request(_ bytes: Int, _ write: (inout MessageWriter) -> Void) -> [UInt8] {
        var room = [UInt8](repeating: 0, count: bytes)
        let count = room.withUnsafeMutableBytes { buffer in
            var writer = MessageWriter(buffer)
            write(&writer)
            return writer.position
        }
        return Array(room.prefix(count))
    }

    private static func lookup(_ numbers: [Int], _ memtable: Memtable) -> [UInt8] {
        let keys = numbers.map(key)
        let joined = [UInt8](keys.joined())
        return joined.withUnsafeBytes { bytes in
            var start = 0
            let questions = keys.map { key in
                defer { start += key.count }
                return ReadDelegation.Question(
                    key: UnsafeRawBufferPointer(rebasing: bytes[start..<start + key.count]), memtables: 1)
            }
            return request(512) { $0.lookup(questions, [memtable], 400, life: 1) }
        }
    }

    private static func range(from number: Int, _ memtable: Memtable) -> [UInt8] {
        key(number).withUnsafeBytes { key in
            request(512) { $0.range(memtable, from: key, Trailer(sequence: 400, kind: .put), atMost: 100, life: 1) }
        }
    }

    /// Either the request is nearly right, or the memory, or both; the answer is within its room.
    @Test func readRequests() throws {
        let memtable = try PrivateMemtable(count: 400, valueBytes: 200, regionBytes: 16 << 20)
        let region = memtable.region
        for number in 1...400 { Self.key(number).withUnsafeBytes { memtable.memtable.filter.add(hashKey($0)) } }
        let corpus = [Self.lookup([1, 250, 401], memtable.memtable), Self.range(from: 120, memtable.memtable)]
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: ReadRing.maximumAnswerBytes, alignment: 8)
        defer { room.deallocate() }
        func answer(_ server: ReadServer, _ request: [UInt8]) -> Int? { request.withUnsafeBytes { server.answer($0, room) } }

        let server = ReadServer(region, ReadRing(region, index: 0))
        #expect(answer(server, corpus[0]) != nil)
        var reader = MessageReader(UnsafeRawBufferPointer(room))
        for number in [1, 250] {
            let answer = reader.answer(memtables: 1)
            let found = try #require(answer)
            #expect(found.state == .value && found.value.elementsEqual([UInt8](repeating: UInt8(number), count: 200)))
        }
        let missing = reader.answer(memtables: 1)
        #expect(missing?.state == .notFound)
        #expect(answer(server, corpus[1]) != nil)
        reader = MessageReader(UnsafeRawBufferPointer(room))
        let entries = Int(reader.number(UInt32.self) ?? 0)
        _ = reader.number(UInt32.self)
        #expect(entries > 10)
        for number in 120..<120 + entries {
            let entry = reader.entry()
            #expect(entry.map { $0.key.elementsEqual(Self.key(number)) } == true)
        }

        let root = memtable.memtable.map.shards[0].root - region.base
        let places: [Range<Int>] = [
            RegionLayout.MemtableSlot.offset..<RegionLayout.MemtableSlot.offset + 512, root..<root + 256,
            root + 2048..<root + 2048 + 100_000,
        ]
        let images = places.map { Array(UnsafeRawBufferPointer(start: region.base + $0.lowerBound, count: $0.count)) }
        func write(_ bytes: [UInt8], _ place: Range<Int>) {
            bytes.withUnsafeBytes {
                (region.base + place.lowerBound).copyMemory(
                    from: $0.baseAddress ?? UnsafeRawPointer(region.base), byteCount: min(place.count, bytes.count))
            }
        }
        var answered = 0
        fuzz("read requests", corpus) { mutator, bytes in
            let isDamaged = mutator.below(2) == 0
            let damage = isDamaged ? mutator.below(places.count) : 0
            if isDamaged {
                var bytes = images[damage]
                for _ in 0...mutator.below(3) { mutator.mutate(&bytes, images) }
                write(bytes, places[damage])
            }
            defer { if isDamaged { write(images[damage], places[damage]) } }
            // What is damaged is met by one who has seen it whole, or by one who has not.
            let asked = mutator.below(2) == 0 ? server : ReadServer(region, ReadRing(region, index: 0))
            let request = isDamaged && mutator.below(2) == 0 ? corpus[mutator.below(corpus.count)] : bytes
            if let count = answer(asked, request) {
                answered += 1
                guard (0...room.count).contains(count) else { throw Wrong(description: "an answer of \(count) bytes") }
            }
        }
        print("FuzzTests: \(answered) of the read requests were answered")
    }
}
