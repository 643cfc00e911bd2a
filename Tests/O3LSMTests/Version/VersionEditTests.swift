import Testing

@testable import O3LSM

@Suite struct VersionEditTests {
    private func example() -> VersionEdit {
        var edit = VersionEdit.moving(
            [(0, 4), (6, 300)],
            to: [
                (0, .table(9, "a", "k", sequences: 5...900)), (3, .table(1 << 40, "", "z", exclusiveEnd: true)),
                (2, .table(7, "l", "m", densestDeletions: 2)), (6, .table(2, String(repeating: "x", count: 16384), String(repeating: "x", count: 16384))),
            ]
        )
        edit.flushedSequence = maximumSequenceNumber
        edit.nextFileNumber = 1 << 41
        edit.lastSequence = 0
        return edit
    }

    @Test func editsComeBack() throws {
        for edit in [VersionEdit(), .adding([], flushed: 7), example()] {
            #expect(try VersionEdit.decoding(edit.encode()).description == edit.description)
        }
    }

    /// Tables whose deletes lie in no one place are written as they have always been.
    @Test func tablesWithoutDensityKeepTheirForm() throws {
        let plain = VersionEdit.adding([(1, .table(5, "abc", "def"))], flushed: 9).encode()
        #expect(plain.first == 1)
        #expect(try VersionEdit.decoding(plain).addedFiles[0].file.densestDeletions == 0)
        let dense = VersionEdit.adding([(1, .table(5, "abc", "def", densestDeletions: 1))], flushed: 9).encode()
        #expect(dense.first == 6 && dense.count == plain.count + 1)
        #expect(try VersionEdit.decoding(dense).addedFiles[0].file.densestDeletions == 1)
        // Two of its ten entries are deletes.
        let forged = VersionEdit.adding([(1, .table(5, "abc", "def", densestDeletions: 3))], flushed: 9).encode()
        #expect(throws: EngineError.self) { try VersionEdit.decoding(forged) }
    }

    @Test func everyTruncationIsShorterOrCorruption() throws {
        let bytes = example().encode()
        for length in bytes.indices where length < 300 || length % 97 == 0 {
            do throws(EngineError) {
                let edit = try VersionEdit.decoding(Array(bytes.prefix(length)))
                #expect(edit.encode().count == length)
            } catch {
                #expect(error.isCorruption)
            }
        }
    }

    @Test func unknownTagsLevelsAndSequencesAreCorruption() {
        var tooLarge = ByteWriter()
        tooLarge.append(UInt8(3))
        tooLarge.appendVarint(maximumSequenceNumber + 1)
        for bytes: [UInt8] in [[0], [7], [255], [2, 7, 1], [1, 7], [6, 1], [3], [4, 0x80], tooLarge.bytes] {
            #expect(throws: EngineError.self, "\(bytes)") { try VersionEdit.decoding(bytes) }
        }
    }

    @Test func randomBytesDoNotCrash() {
        let seed = UInt64.random(in: 0 ... .max)
        print("VersionEditTests.randomBytesDoNotCrash seed \(seed)")
        var generator = SeededRandom(seed)
        let bytes = VersionEdit.adding([(1, .table(5, "abc", "def"))], flushed: 9).encode()
        for _ in 0..<3000 {
            var damaged = bytes
            for _ in 0...2 {
                damaged[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
                    in: 0...255,
                    using: &generator
                )
            }
            _ = try? VersionEdit.decoding(damaged)
        }
    }
}
