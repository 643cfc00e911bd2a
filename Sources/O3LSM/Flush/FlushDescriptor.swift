/// All that an executor needs to flush one shard of a sealed memtable, or the shards of the same key range of
/// consecutive memtables, into one table.
struct FlushDescriptor: Equatable, Sendable {
    /// One shard in DM.
    struct Source: Equatable, Sendable {
        var memtableID: UInt64
        var slot: Int
        /// The shard's index in the memtable's slot.
        var shard: Int
    }
    /// Oldest first; 1 … `maximumSources`.
    var sources: [Source]
    static let maximumSources = 8
    /// The shards' key range: range tombstones are clipped to it. nil: unbounded.
    var lowerBound: [UInt8]
    var upperBound: [UInt8]?
    /// Number of the table to write; no other attempt has it.
    var fileNumber: UInt64
    /// Snapshots that must stay readable, ascending.
    var snapshots: [SequenceNumber]
    var blockSize: Int
    var compression: Compression
    var bloomBitsPerKey: Int

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 128)
        writer.appendVarint(UInt64(sources.count))
        for source in sources {
            writer.appendVarint(source.memtableID)
            writer.appendVarint(UInt64(source.slot))
            writer.appendVarint(UInt64(source.shard))
        }
        writer.append(prefixed: lowerBound)
        writer.append(UInt8(upperBound == nil ? 0 : 1))
        writer.append(prefixed: upperBound ?? [])
        writer.appendVarint(fileNumber)
        writer.appendVarint(UInt64(blockSize))
        writer.append(UInt8(compression == .lz4 ? 1 : 0))
        writer.append(UInt8(bloomBitsPerKey))
        writer.appendVarint(UInt64(snapshots.count))
        for snapshot in snapshots { writer.append(snapshot) }
        return writer.bytes
    }

    /// nil when the bytes are not a descriptor.
    static func decode(_ bytes: [UInt8]) -> FlushDescriptor? {
        bytes.withUnsafeBytes { buffer in
            var reader = ByteReader(buffer)
            guard let sourceCount = reader.readVarint(), (1...UInt64(maximumSources)).contains(sourceCount) else {
                return nil
            }
            var sources: [Source] = []
            for _ in 0..<sourceCount {
                guard let memtableID = reader.readVarint(), let slot = reader.readVarint(),
                    slot < UInt64(RegionLayout.MemtableSlot.count), let shard = reader.readVarint(),
                    shard < UInt64(RegionLayout.MemtableSlot.maximumShards)
                else { return nil }
                sources.append(Source(memtableID: memtableID, slot: Int(slot), shard: Int(shard)))
            }
            guard let lower = reader.readPrefixed(),
                let hasUpper = reader.read(UInt8.self), let upper = reader.readPrefixed(),
                let fileNumber = reader.readVarint(), let blockSize = reader.readVarint(),
                blockSize >= 1024, blockSize <= 1 << 20, let compression = reader.read(UInt8.self),
                let bloomBits = reader.read(UInt8.self), bloomBits <= 32, let count = reader.readVarint(),
                count <= UInt64(reader.remaining / 8)
            else { return nil }
            var snapshots: [SequenceNumber] = []
            for _ in 0..<count {
                guard let snapshot = reader.read(UInt64.self) else { return nil }
                snapshots.append(snapshot)
            }
            return FlushDescriptor(
                sources: sources, lowerBound: lower, upperBound: hasUpper == 0 ? nil : upper, fileNumber: fileNumber, snapshots: snapshots,
                blockSize: Int(blockSize), compression: compression == 1 ? .lz4 : .none,
                bloomBitsPerKey: Int(bloomBits))
        }
    }
}

/// What an executor answers.
struct FlushResult: Equatable, Sendable {
    /// False when there was nothing to write, which no planned job may claim.
    var wroteTable: Bool
    /// Point entries read from the shards.
    var entriesRead: UInt64
    var entriesDropped: UInt64
    var fileSize: UInt64

    func encode() -> [UInt8] {
        var writer = ByteWriter(capacity: 32)
        writer.append(UInt8(wroteTable ? 1 : 0))
        writer.append(entriesRead)
        writer.append(entriesDropped)
        writer.append(fileSize)
        return writer.bytes
    }

    static func decode(_ bytes: [UInt8]) -> FlushResult? {
        bytes.withUnsafeBytes { buffer in
            var reader = ByteReader(buffer)
            guard let wrote = reader.read(UInt8.self), let read = reader.read(UInt64.self),
                let dropped = reader.read(UInt64.self), let size = reader.read(UInt64.self)
            else { return nil }
            return FlushResult(wroteTable: wrote == 1, entriesRead: read, entriesDropped: dropped, fileSize: size)
        }
    }
}
