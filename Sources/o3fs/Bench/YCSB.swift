import O3LSM

/// The operations of a workload of YCSB in percent, and the keys they take (Cooper et al., SoCC 2010, table 2).
struct YCSBMix: Sendable {
    var reads = 0
    var updates = 0
    var inserts = 0
    var scans = 0
    var readModifyWrites = 0
    var distribution = KeyDistribution.zipfian

    /// Entries of a scan: 1 … this, each length as likely.
    static let longestScan: UInt64 = 100
}

extension Workload {
    /// nil: not one of YCSB's.
    var ycsb: YCSBMix? {
        switch self {
        case .ycsba: YCSBMix(reads: 50, updates: 50)
        case .ycsbb: YCSBMix(reads: 95, updates: 5)
        case .ycsbc: YCSBMix(reads: 100)
        case .ycsbd: YCSBMix(reads: 95, inserts: 5, distribution: .latest)
        case .ycsbe: YCSBMix(inserts: 5, scans: 95)
        case .ycsbf: YCSBMix(reads: 50, readModifyWrites: 50)
        default: nil
        }
    }
}

/// The records of YCSB as one thread sees them: those that were loaded, and behind them those it inserted itself. Records
/// are scattered over the keys, so that neighbours in a scan were not written together. No two threads or workloads of a
/// run insert the same record.
struct YCSBRecords {
    private let loaded: UInt64
    private let firstInserted: UInt64

    /// - Parameters:
    ///   - loaded: records that `ycsbload` wrote; less than 2^40.
    ///   - stream: the thread's random stream, which no other thread of the run has.
    init(loaded: Int, stream: Int) {
        self.loaded = UInt64(loaded)
        firstInserted = UInt64(stream + 1) << 40
    }

    /// The number in a record's key; different for different records, since the mixing can be undone.
    @inline(__always)
    func keyNumber(_ record: UInt64) -> UInt64 {
        WorkloadRandom.mix(record < loaded ? record : firstInserted + (record - loaded))
    }
}

extension WorkloadThread {
    /// Writes each record of YCSB once; threads take turns.
    mutating func loadRecords(_ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let records = YCSBRecords(loaded: settings.num, stream: 0)
        var record = index
        let mine = (settings.num - index + settings.threads - 1) / settings.threads
        var pace = Pace(limit: max(mine, 0), seconds: 0, start: tally.start)
        while let already = pace.next() {
            let size = min(settings.batchSize, mine - already)
            batch.clear()
            for _ in 0..<size {
                put(records.keyNumber(UInt64(record)))
                record += settings.threads
            }
            try group.database.write(batch, sync: settings.sync)
            pace.finish(size, &tally)
        }
        tally.bytes = UInt64(tally.operations) * UInt64(settings.keySize + settings.valueSize)
    }

    /// Operations of a mix, one at a time. A read, modify and write is one operation, and an update writes a whole value.
    mutating func runMix(_ mix: YCSBMix, _ tally: inout WorkloadTally) throws(EngineError) {
        let settings = group.settings
        let records = YCSBRecords(loaded: settings.num, stream: group.firstStream + index)
        let entryBytes = UInt64(settings.keySize + settings.valueSize)
        var pace = Pace(settings, operations: settings.reads ?? settings.num, start: tally.start)
        while pace.next() != nil {
            var dice = Int(random.next(below: 100))
            func falls(_ percent: Int) -> Bool {
                dice -= percent
                return dice < 0
            }
            if falls(mix.reads) {
                try read(records.keyNumber(chooser.next(&random)), &tally)
            } else if falls(mix.scans) {
                let length = Int(random.next(below: YCSBMix.longestScan)) + 1
                try scan(records.keyNumber(chooser.next(&random)), length: length, &tally)
            } else if falls(mix.inserts) {
                try update(records.keyNumber(inserted + UInt64(settings.num)))
                inserted += 1
                chooser.grow()
                tally.bytes += entryBytes
            } else {
                let number = records.keyNumber(chooser.next(&random))
                if mix.readModifyWrites > 0 { try read(number, &tally) }
                try update(number)
                tally.bytes += entryBytes
            }
            pace.finish(1, &tally)
        }
    }

    private mutating func read(_ number: UInt64, _ tally: inout WorkloadTally) throws(EngineError) {
        let key = keys.key(number)
        tally.reads += 1
        guard let value = try group.database.lookup(key) else { return }
        try verify(key, value.bytes)
        tally.found += 1
        tally.bytes += UInt64(key.count + value.bytes.count)
    }

    private mutating func update(_ number: UInt64) throws(EngineError) {
        batch.clear()
        put(number)
        try group.database.write(batch, sync: group.settings.sync)
    }

    /// Reads up to `length` entries from a key on.
    private mutating func scan(
        _ number: UInt64, length: Int, _ tally: inout WorkloadTally
    ) throws(EngineError) {
        let key = keys.key(number)
        tally.reads += 1
        let iterator = try group.database.makeIterator()
        try iterator.seek(key)
        if iterator.isValid, compareBytes(iterator.key, key) { tally.found += 1 }
        var order = ScanOrder(backward: false)
        var entries = 0
        while iterator.isValid {
            if group.settings.verify { try order.check(iterator.key) }
            try verify(iterator.key, iterator.value)
            tally.bytes += UInt64(iterator.key.count + iterator.value.count)
            entries += 1
            guard entries < length else { break }
            try iterator.next()
        }
        tally.entries += entries
    }
}
