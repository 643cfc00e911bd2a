import Testing

@testable import o3fs

@Suite struct ByteSizeTests {
    @Test(arguments: [
        ("0", 0), ("4096", 4096), ("64K", 65536), ("64k", 65536), ("64M", 64 << 20), ("64MB", 64 << 20),
        ("64MiB", 64 << 20), ("1.5G", 3 << 29), ("2T", 2 << 40), ("12B", 12), ("0.5k", 512),
    ])
    func acceptsWhatPeopleWrite(text: String, bytes: Int) {
        #expect(ByteSize(argument: text)?.bytes == bytes)
    }

    @Test(arguments: ["", "M", "-1", "1X", "1 M", ".5M", "5.M", "1.2.3K", "9999999999T", "1e3", "0x10", "K64"])
    func refusesWhatIsNoSize(text: String) {
        #expect(ByteSize(argument: text) == nil)
    }

    @Test(arguments: [0, 1, 1023, 1024, 1025, 64 << 20, 3 << 29, (1 << 40) + 1])
    func printsWhatItParses(bytes: Int) {
        #expect(ByteSize(argument: ByteSize(bytes).description)?.bytes == bytes)
    }

    @Test func formatsForReaders() {
        #expect(readableBytes(1023) == "1023 B")
        #expect(readableBytes(1536) == "1.5 KiB")
        #expect(readableBytes(64 << 20) == "64.0 MiB")
        #expect(fixed(3.14159, decimals: 2) == "3.14")
        #expect(fixed(0.996, decimals: 2) == "1.00")
        #expect(fixed(-0.001, decimals: 1) == "0.0")
        #expect(fixed(2.5, decimals: 0) == "3")
        #expect(fixed(.nan, decimals: 1) == "-")
    }
}
