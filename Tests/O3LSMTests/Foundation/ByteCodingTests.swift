import Testing

@testable import O3LSM

@Suite struct ByteCodingTests {
    @Test func integersAndBytesComeBack() {
        var writer = ByteWriter()
        writer.append(UInt8(7))
        writer.append(UInt16(0x1234))
        writer.append(UInt32.max)
        writer.append(UInt64(1) << 63)
        writer.append(prefixed: [1, 2, 3])
        writer.append(raw: [9, 9])
        #expect(Array(writer.bytes.prefix(3)) == [7, 0x34, 0x12])
        writer.bytes.withUnsafeBytes { bytes in
            var reader = ByteReader(bytes)
            #expect(reader.read(UInt8.self) == 7)
            #expect(reader.read(UInt16.self) == 0x1234)
            #expect(reader.read(UInt32.self) == .max)
            #expect(reader.read(UInt64.self) == 1 << 63)
            #expect(reader.readPrefixed() == [1, 2, 3])
            #expect(reader.readBytes(3) == nil)
            #expect(reader.readBytes(2) == [9, 9])
            #expect(reader.remaining == 0)
            #expect(reader.read(UInt8.self) == nil)
        }
    }

    @Test func varintsOfEveryLength() {
        for shift in 0..<64 {
            for value in [UInt64(1) << UInt64(shift), (UInt64(1) << UInt64(shift)) - 1, .max >> UInt64(shift)] {
                var writer = ByteWriter()
                writer.appendVarint(value)
                writer.bytes.withUnsafeBytes { bytes in
                    var reader = ByteReader(bytes)
                    #expect(reader.readVarint() == value)
                    #expect(reader.remaining == 0)
                    for length in 0..<bytes.count {
                        var short = ByteReader(UnsafeRawBufferPointer(rebasing: bytes.prefix(length)))
                        #expect(short.readVarint() == nil)
                    }
                }
            }
        }
    }

    @Test func varintsTooLongAreRefused() {
        for bytes in [[UInt8](repeating: 0x80, count: 11), [UInt8](repeating: 0xff, count: 9) + [2]] {
            bytes.withUnsafeBytes {
                var reader = ByteReader($0)
                #expect(reader.readVarint() == nil)
            }
        }
    }

    @Test func lengthsPastTheEndAreRefused() {
        var writer = ByteWriter()
        writer.appendVarint(.max)
        writer.append(raw: [1, 2])
        writer.bytes.withUnsafeBytes {
            var reader = ByteReader($0)
            #expect(reader.readPrefixed() == nil)
        }
    }

    @Test func growingBufferKeepsItsBytes() {
        var generator = SeededRandom(2)
        var buffer = ByteBuffer(capacity: 1)
        var model: [UInt8] = []
        for _ in 0..<500 {
            switch Int.random(in: 0..<4, using: &generator) {
            case 0:
                let bytes = generator.bytes(Int.random(in: 0...100, using: &generator))
                bytes.withUnsafeBytes { buffer.append($0) }
                model += bytes
            case 1:
                let value = Int.random(in: 0...Int.max, using: &generator) >> Int.random(in: 0...62, using: &generator)
                buffer.appendVarint(value)
                var writer = ByteWriter()
                writer.appendVarint(UInt64(value))
                model += writer.bytes
            case 2:
                let value = UInt32.random(in: 0 ... .max, using: &generator)
                buffer.append(value)
                withUnsafeBytes(of: value.littleEndian) { model += $0 }
            default:
                let length = Int.random(in: 0...model.count, using: &generator)
                guard length > model.count / 2 else { continue }
                buffer.truncate(to: length)
                model = Array(model.prefix(length))
            }
            #expect([UInt8](buffer.bytes) == model)
        }
    }

    @Test func commonPrefixes() {
        var generator = SeededRandom(3)
        for _ in 0..<2000 {
            let left = generator.bytes(Int.random(in: 0...40, using: &generator), alphabet: 0...1)
            var right = left
            if !right.isEmpty, Bool.random(using: &generator) {
                right[Int.random(in: right.indices, using: &generator)] ^= 2
            }
            let expected = zip(left, right).prefix { $0 == $1 }.count
            left.withUnsafeBytes { a in
                right.withUnsafeBytes { b in
                    guard let first = a.baseAddress, let second = b.baseAddress else { return }
                    #expect(commonPrefixLength(first, second, a.count) == expected)
                }
            }
        }
    }
}
