import CSystem
import Foundation
import Glibc
import Testing

@testable import O3LSM

/// A region is mapped in large pages wherever the kernel can do that at all.
@Suite struct LargePageTests {
    private static let bytes = 16 << 20

    /// Kilobytes of the mapping at `base` that are mapped as large pages, by the kernel's word.
    private static func largeKilobytes(at base: UnsafeMutableRawPointer) throws -> Int {
        // Files of /proc have no length: they must be read to their end.
        let data = try #require(FileHandle(forReadingAtPath: "/proc/self/smaps")).readToEnd() ?? Data()
        let begin = String(UInt(bitPattern: base), radix: 16) + "-"
        var isIn = false
        for line in String(decoding: data, as: UTF8.self).split(separator: "\n") {
            if line.contains("-"), line.first?.isHexDigit == true, !line.contains(":  ") { isIn = line.hasPrefix(begin) }
            if isIn, line.hasPrefix("ShmemPmdMapped:") {
                return line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
            }
        }
        return 0
    }

    /// Whether this kernel makes large pages of shared memory when it is asked to.
    private static func kernelHasLargePages() -> Bool {
        let name = "/o3lsm-test-large-\(getpid())"
        let descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0o600)
        guard descriptor >= 0 else { return false }
        defer {
            close(descriptor)
            shm_unlink(name)
        }
        let page = 2 << 20
        guard posix_fallocate(descriptor, 0, page) == 0,
            let space = mmap(nil, 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), space != MAP_FAILED
        else { return false }
        defer { munmap(space, 2 * page) }
        let base = space.alignedUp(toMultipleOf: page)
        guard mmap(base, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0) != MAP_FAILED else { return false }
        return madvise(base, page, o3_MADV_COLLAPSE) == 0
    }

    @Test func creatorAndFinderMapLargePages() throws {
        let store = (0..<16).map { _ in UInt8.random(in: 0...255) }
        let created = try Region.create(storeID: store, bootID: "boot", size: Self.bytes)
        defer { Region.unlink(storeID: store) }
        created.markReady()
        let (found, refusal) = try Region.attach(storeID: store, bootID: "boot")
        #expect(refusal == .none)
        let region = try #require(found)
        region.touch(slabs: 0..<region.slabCount)
        for base in [created.base, region.base] {
            #expect(Int(bitPattern: base) % (2 << 20) == 0)
            if Self.kernelHasLargePages() { #expect(try Self.largeKilobytes(at: base) >= (Self.bytes >> 10) / 2) }
        }
    }

    /// Sizes that are no multiple of a large page, one that ends within a page of 4 KiB included.
    @Test func everySizeIsMappedWhole() throws {
        for size in [RegionLayout.minimumBytes, RegionLayout.minimumBytes + (1 << 20), RegionLayout.minimumBytes + 1000] {
            let store = (0..<16).map { _ in UInt8.random(in: 0...255) }
            let created = try Region.create(storeID: store, bootID: "boot", size: size)
            defer { Region.unlink(storeID: store) }
            created.markReady()
            let region = try #require(try Region.attach(storeID: store, bootID: "boot").0)
            (created.base + size - 1).storeBytes(of: 77, as: UInt8.self)
            #expect((region.base + size - 1).load(as: UInt8.self) == 77)
        }
    }
}
