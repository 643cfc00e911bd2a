import CSystem
import Glibc

/// A mapped DM region: one POSIX shared-memory object per store, mode 0600.
///
/// What a region holds is described by `RegionLayout`. The class owns the mapping and nothing else; the
/// words in it are accessed atomically by those who know what they mean. Everything read from it is
/// untrusted: offsets go through `pointer(at:bytes:)`, which checks them.
final class Region: @unchecked Sendable {
    // @unchecked: the mapping is immutable; shared words are atomic; slabs have one owner each.
    let name: String
    let base: UnsafeMutableRawPointer
    let size: Int
    let slabCount: Int
    /// Whether the object was found (and holds memtables to recover) rather than created.
    let isRecovered: Bool
    /// Whether this is memory of one process only, see `createPrivate`.
    let isPrivate: Bool

    /// What this process pays for its accesses to memtables here; nil: nothing. Set before any memtable of it is
    /// attached or made, which keep it.
    var fabric: FabricDistance?

    /// The object's inode, 0 for private memory.
    private let inode: ino_t

    private init(
        name: String, base: UnsafeMutableRawPointer, size: Int, isRecovered: Bool, isPrivate: Bool = false,
        inode: ino_t = 0
    ) {
        self.inode = inode
        self.isPrivate = isPrivate
        self.name = name
        self.base = base
        self.size = size
        self.isRecovered = isRecovered
        slabCount = (size - RegionLayout.firstSlabOffset) / RegionLayout.slabBytes
    }

    deinit { munmap(base, size) }

    /// The name of a store's shared-memory object.
    static func objectName(storeID: [UInt8]) -> String {
        "/o3lsm-" + storeID.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
    }

    /// Why an existing object was not used.
    enum Refusal: Equatable, Sendable {
        case none
        case absent
        /// One sentence.
        case rebuilt(String)
    }

    /// Whether the name still leads to this region: an owner that closes its store takes the name away, and the
    /// next one makes a new object.
    var isCurrent: Bool {
        let descriptor = shm_open(name, O_RDONLY | O_CLOEXEC, 0)
        // What this process is short of says nothing of the name.
        guard descriptor >= 0 else { return [EMFILE, ENFILE, ENOMEM, EINTR].contains(errno) }
        defer { Glibc.close(descriptor) }
        var status = stat()
        return fstat(descriptor, &status) == 0 && status.st_ino == inode
    }

    /// Attaches to the live region of a store. nil with a reason when there is none that can be trusted.
    ///
    /// - Throws: `.io` when the object exists but belongs to somebody else or cannot be mapped.
    static func attach(storeID: [UInt8], bootID: String) throws(EngineError) -> (Region?, Refusal) {
        let name = objectName(storeID: storeID)
        let descriptor = shm_open(name, O_RDWR | O_CLOEXEC, 0)
        guard descriptor >= 0 else {
            if errno == ENOENT { return (nil, .absent) }
            throw .io(operation: "open shared memory", path: name, code: errno)
        }
        defer { Glibc.close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw .io(operation: "inspect shared memory", path: name, code: errno)
        }
        guard status.st_uid == geteuid(), status.st_mode & 0o077 == 0 else {
            throw .io(operation: "use shared memory that another user can reach:", path: name, code: EACCES)
        }
        let size = Int(status.st_size)
        // Its creator died before it had reserved anything.
        guard size > 0 else { return (nil, .rebuilt("the region was not completely initialised")) }
        guard size >= RegionLayout.minimumBytes else { return (nil, .rebuilt("the region is truncated")) }
        // A sparse object would kill its users with SIGBUS when shared memory fills.
        guard UInt64(status.st_blocks) * 512 >= UInt64(size) else {
            return (nil, .rebuilt("the region has holes"))
        }
        let region = Region(
            name: name, base: try map(descriptor, size, name), size: size, isRecovered: true, inode: status.st_ino)
        if let reason = region.reasonToDistrust(storeID: storeID, bootID: bootID) {
            return (nil, .rebuilt(reason))
        }
        return (region, .none)
    }

    /// Keeps this process from writing to slabs, which a worker only reads: the processor enforces it. The tables of
    /// nodes, jobs and bells stay writable.
    ///
    /// - Throws: `.io`.
    func protectSlabs() throws(EngineError) {
        let bytes = slabCount * RegionLayout.slabBytes
        guard mprotect(base + RegionLayout.firstSlabOffset, bytes, PROT_READ) == 0 else {
            throw .io(operation: "protect the slabs of", path: name, code: errno)
        }
    }

    /// Creates the region of a store, replacing what stands under its name. All of it is reserved.
    ///
    /// - Throws: `.memoryUnavailable` with both numbers when shared memory has no room.
    static func create(storeID: [UInt8], bootID: String, size: Int) throws(EngineError) -> Region {
        let name = objectName(storeID: storeID)
        shm_unlink(name)
        let available = sharedMemoryBytesAvailable()
        guard UInt64(size) <= available else {
            throw .memoryUnavailable(wantedBytes: UInt64(size), availableBytes: available)
        }
        let descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .io(operation: "create shared memory", path: name, code: errno) }
        defer { Glibc.close(descriptor) }
        do throws(EngineError) {
            let inode = try inode(of: descriptor, name)
            let region = Region(
                name: name, base: try reserve(descriptor, size, name), size: size, isRecovered: false, inode: inode)
            region.initialise(storeID: storeID, bootID: bootID)
            return region
        } catch {
            shm_unlink(name)
            throw error
        }
    }

    private static func inode(of descriptor: Int32, _ name: String) throws(EngineError) -> ino_t {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw .io(operation: "inspect shared memory", path: name, code: errno)
        }
        return status.st_ino
    }

    /// Maps a new object and gives all of it memory, in large pages where the kernel has them (MADV_COLLAPSE, Linux 6.1,
    /// which needs no setting): a process that dies gives its mapping back in a few milliseconds, not in tens for each GiB, the
    /// next one maps it as fast, and a descent of a skiplist misses fewer translations.
    ///
    /// - Throws: `.memoryUnavailable`, `.io`; the mapping is gone then.
    private static func reserve(_ descriptor: Int32, _ size: Int, _ name: String) throws(EngineError)
        -> UnsafeMutableRawPointer
    {
        func check(_ code: Int32) throws(EngineError) {
            if code == ENOSPC {
                throw .memoryUnavailable(wantedBytes: UInt64(size), availableBytes: sharedMemoryBytesAvailable())
            }
            if code != 0 { throw .io(operation: "reserve shared memory", path: name, code: code) }
        }
        try check(ftruncate(descriptor, size) == 0 ? 0 : errno)
        let base = try map(descriptor, size, name)
        do throws(EngineError) {
            // A large page grows around a page that is there. Written through the descriptor: want of memory is an
            // error there, and a signal in the mapping.
            for offset in stride(from: 0, to: size, by: largePageBytes) {
                var zero: UInt8 = 0
                try check(pwrite(descriptor, &zero, 1, offset) == 1 ? 0 : errno)
            }
            for offset in stride(from: 0, to: size, by: largePageStep) {
                // A kernel that has none left has none for the rest either.
                guard madvise(base + offset, min(largePageStep, size - offset), o3_MADV_COLLAPSE) == 0 else { break }
            }
            try check(posix_fallocate(descriptor, 0, size))
        } catch {
            munmap(base, size)
            throw error
        }
        return base
    }

    /// What one entry of a page table's middle level maps, on x86-64 and on arm64 with pages of 4 KiB.
    private static let largePageBytes = 2 << 20
    /// Bytes in one request for large pages. Each waits for all processors, which takes long where these are busy.
    private static let largePageStep = 1 << 30

    /// Memory of this process alone, laid out as a region: what is built in it can be copied to DM as it is.
    /// It is gone with the process, and its pages are taken as they are first used.
    static func createPrivate(size: Int) throws(EngineError) -> Region {
        guard
            let base = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
            base != MAP_FAILED
        else { throw .io(operation: "reserve \(size) bytes of", path: "private memory", code: errno) }
        // A descent of a skiplist touches pages at random, so translations are what it misses. A kernel that
        // does not give large pages refuses, which costs nothing.
        madvise(base, size, MADV_HUGEPAGE)
        return Region(name: "private memory", base: base, size: size, isRecovered: false, isPrivate: true)
    }

    /// Removes the object's name; processes that have it mapped keep it until they unmap it.
    func unlink() { shm_unlink(name) }

    /// Removes the object of a store without mapping it.
    static func unlink(storeID: [UInt8]) { shm_unlink(objectName(storeID: storeID)) }

    /// The region size to use when the caller names none: an eighth of RAM within 256 MiB … 4 GiB and
    /// within what shared memory can hold.
    static func defaultSize() -> Int {
        let memory = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
        let wanted = min(max(memory / 8, 256 << 20), 4 << 30)
        let possible = Int(min(sharedMemoryBytesAvailable(), UInt64(Int.max)))
        return min(wanted, possible) / RegionLayout.slabBytes * RegionLayout.slabBytes
    }

    /// This boot of the machine: shared memory of another boot cannot exist, so a region that names one
    /// was copied there.
    static func currentBootID() -> String {
        guard let file = fopen("/proc/sys/kernel/random/boot_id", "r") else { return "unknown" }
        defer { fclose(file) }
        var buffer = [UInt8](repeating: 0, count: 64)
        let count = fread(&buffer, 1, 36, file)
        return String(decoding: buffer.prefix(count), as: UTF8.self)
    }

    /// Maps a range of slabs ahead of its first use.
    ///
    /// By reading: the kernel maps sixteen pages around each such fault when they have been used before, writable
    /// ones since nobody tracks writes to shared memory, and locks nothing that an allocating thread waits for.
    /// Asking it to populate the range (`madvise`) takes longer and holds the process's memory map meanwhile.
    func touch(slabs: Range<Int>) {
        let pageBytes = 4096
        for slab in slabs.clamped(to: 0..<slabCount) {
            let slabBase = base + RegionLayout.firstSlabOffset + slab * RegionLayout.slabBytes
            for offset in stride(from: 0, to: RegionLayout.slabBytes, by: pageBytes) {
                _ = sharedWord32(slabBase + offset).pointee.load(ordering: .relaxed)
            }
        }
    }

    /// A checked pointer to `bytes` bytes at `offset`; nil when they do not lie in the region.
    @inline(__always)
    func pointer(at offset: Int, bytes: Int) -> UnsafeMutableRawPointer? {
        guard offset >= 0, bytes >= 0, offset <= size - bytes else { return nil }
        return base + offset
    }

    /// The first byte of a slab; nil for a number outside the region.
    @inline(__always)
    func slab(_ number: UInt32) -> UnsafeMutableRawPointer? {
        guard number < UInt32(slabCount) else { return nil }
        return base + RegionLayout.firstSlabOffset + Int(number) * RegionLayout.slabBytes
    }

    func doorbell(_ index: Int) -> Doorbell {
        Doorbell(base + RegionLayout.Doorbells.offset + index * RegionLayout.Doorbells.stride)
    }

    /// Everything up to this sequence number is visible to readers and survives the death of processes.
    ///
    /// Setting it also stores its complement, first and in the same cache line: what a flipped bit makes of either
    /// does not go unseen (`possibleVisibleSequences`).
    var visibleSequence: SequenceNumber {
        @inline(__always) get {
            sharedWord64(base + RegionLayout.Header.visibleSequence).pointee.load(ordering: .acquiring)
        }
        @inline(__always) set {
            sharedWord64(base + RegionLayout.Header.visibleComplement).pointee.store(~newValue, ordering: .releasing)
            sharedWord64(base + RegionLayout.Header.visibleSequence).pointee.store(newValue, ordering: .releasing)
        }
    }

    /// What an owner that died may have meant by its visible sequence, the more entries the better: one number, or
    /// two when word and complement disagree. Then the owner died between its two stores, or a bit is damaged;
    /// which of them is right the entries tell, which must be as many as it says.
    var possibleVisibleSequences: [SequenceNumber] {
        let complement = sharedWord64(base + RegionLayout.Header.visibleComplement).pointee.load(ordering: .acquiring)
        return Set([visibleSequence, ~complement]).sorted(by: >)
    }

    /// Up to which sequence number storage holds everything, in synced files of the log or in tables, as the owner last
    /// noted it. Tables may hold more. nil: unknown, because nothing was noted yet, the owner died between the two stores
    /// of a note, or a bit is damaged.
    var durableSequence: SequenceNumber? {
        let sequence = sharedWord64(base + RegionLayout.Header.durableSequence).pointee.load(ordering: .acquiring)
        let complement = sharedWord64(base + RegionLayout.Header.durableComplement).pointee.load(ordering: .acquiring)
        return sequence == ~complement ? sequence : nil
    }

    /// Tells the next owner that it need not log again what lies up to `sequence`. For one thread at a time.
    func noteDurable(_ sequence: SequenceNumber) {
        sharedWord64(base + RegionLayout.Header.durableComplement).pointee.store(~sequence, ordering: .releasing)
        sharedWord64(base + RegionLayout.Header.durableSequence).pointee.store(sequence, ordering: .releasing)
    }

    /// Where the memtables were born that are missing between what the region holds and its visible sequence.
    var placement: Placement {
        get {
            sharedWord32(base + RegionLayout.Header.placement).pointee.load(ordering: .acquiring) == 1
                ? .staged : .direct
        }
        set {
            sharedWord32(base + RegionLayout.Header.placement).pointee.store(
                newValue == .staged ? 1 : 0, ordering: .releasing)
        }
    }

    /// The build of the process that owns the region; 0 before there was one.
    var build: UInt32 {
        get { sharedWord32(base + RegionLayout.Header.build).pointee.load(ordering: .acquiring) }
        set { sharedWord32(base + RegionLayout.Header.build).pointee.store(newValue, ordering: .releasing) }
    }

    /// A fresh memtable id, never given twice in the life of a region.
    func takeMemtableID() -> UInt64 {
        sharedWord64(base + RegionLayout.Header.nextMemtableID).pointee.wrappingAdd(1, ordering: .relaxed).newValue
    }

    /// Maps an object where its large pages can be mapped as such: at a multiple of their size.
    private static func map(_ descriptor: Int32, _ size: Int, _ name: String) throws(EngineError)
        -> UnsafeMutableRawPointer
    {
        let room = size + largePageBytes
        guard let space = mmap(nil, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
            space != MAP_FAILED
        else { throw .io(operation: "map shared memory", path: name, code: errno) }
        let base = space.alignedUp(toMultipleOf: largePageBytes)
        guard mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0) != MAP_FAILED else {
            let code = errno
            munmap(space, room)
            throw .io(operation: "map shared memory", path: name, code: code)
        }
        // Whole pages: sizes of regions that others made may be any.
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let end = (base + size).alignedUp(toMultipleOf: page)
        if base > space { munmap(space, base - space) }
        if space + room > end { munmap(end, space + room - end) }
        return base
    }

    private func initialise(storeID: [UInt8], bootID: String) {
        memset(base, 0, RegionLayout.firstSlabOffset)
        typealias Header = RegionLayout.Header
        base.storeBytes(of: RegionLayout.magic, toByteOffset: Header.magic, as: UInt64.self)
        base.storeBytes(of: RegionLayout.version, toByteOffset: Header.version, as: UInt32.self)
        base.storeBytes(of: UInt32(RegionLayout.slabBytes), toByteOffset: Header.slabBytes, as: UInt32.self)
        base.storeBytes(of: UInt64(size), toByteOffset: Header.regionBytes, as: UInt64.self)
        // Generations name files, too: those of two regions of one store must not meet.
        base.storeBytes(
            of: UInt64.random(in: 0...JobWord.maximumGeneration / 2), toByteOffset: Header.generation, as: UInt64.self)
        visibleSequence = 0
        for (index, byte) in storeID.prefix(16).enumerated() {
            base.storeBytes(of: byte, toByteOffset: Header.storeID + index, as: UInt8.self)
        }
        for (index, byte) in bootID.utf8.prefix(39).enumerated() {
            base.storeBytes(of: byte, toByteOffset: Header.bootID + index, as: UInt8.self)
        }
    }

    /// From here on the region holds all that its store's log holds beyond its tables: before that, an owner
    /// that finds it must not take it for the state of the store.
    func markReady() {
        sharedWord32(base + RegionLayout.Header.ready).pointee.store(1, ordering: .releasing)
    }

    private func reasonToDistrust(storeID: [UInt8], bootID: String) -> String? {
        typealias Header = RegionLayout.Header
        // A creator that dies leaves zeros here, whatever else it has written by then.
        guard sharedWord32(base + Header.ready).pointee.load(ordering: .acquiring) != 0 else {
            return "the region was not completely initialised"
        }
        guard base.load(fromByteOffset: Header.magic, as: UInt64.self) == RegionLayout.magic else {
            return "the region has a foreign magic number"
        }
        let version = base.load(fromByteOffset: Header.version, as: UInt32.self)
        guard version == RegionLayout.version else {
            return "the region has layout version \(version), this build uses \(RegionLayout.version)"
        }
        guard base.load(fromByteOffset: Header.slabBytes, as: UInt32.self) == UInt32(RegionLayout.slabBytes),
            base.load(fromByteOffset: Header.regionBytes, as: UInt64.self) == UInt64(size),
            sharedWord32(base + Header.ready).pointee.load(ordering: .acquiring) == 1
        else { return "the region was not completely initialised" }
        let foundStore = [UInt8](UnsafeRawBufferPointer(start: base + Header.storeID, count: 16))
        guard foundStore == [UInt8](storeID.prefix(16)) else { return "the region belongs to another store" }
        let text = UnsafeRawBufferPointer(start: base + Header.bootID, count: 40).prefix { $0 != 0 }
        guard [UInt8](text) == [UInt8](bootID.utf8.prefix(39)) else { return "the region is of another boot" }
        return nil
    }
}

/// Free bytes of the file system behind POSIX shared memory.
func sharedMemoryBytesAvailable() -> UInt64 {
    var status = statvfs()
    guard statvfs("/dev/shm", &status) == 0 else { return 0 }
    return UInt64(status.f_bavail) * UInt64(status.f_frsize)
}
