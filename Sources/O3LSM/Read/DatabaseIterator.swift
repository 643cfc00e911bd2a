import Glibc

/// A cursor over the keys of a database as they were at one sequence, in key order, forward and backward,
/// within optional bounds. It belongs to one thread, and pins memtables and tables while it lives.
///
/// Its sources know nothing of it and never call back. Hence its properties need no exclusivity checks at
/// run time, which each step would pay several times.
public final class DatabaseIterator {
    private let source: InternalIterator
    private let sequence: SequenceNumber
    private let tombstones: FragmentedTombstones
    private let lowerBound: [UInt8]?
    private let upperBound: [UInt8]?
    /// Keeps what the source reads from alive.
    private let pins: [AnyObject]

    private enum Position { case invalid, forward, backward }
    /// Forward: the source stands on the current entry. Backward: the source stands before all entries of
    /// the current key, which is held in `savedKey` and `savedValue`; entries in between are covered.
    @exclusivity(unchecked) private var position = Position.invalid
    @exclusivity(unchecked) private var savedKey = KeyBuffer()
    @exclusivity(unchecked) private var savedValue = KeyBuffer()

    init(
        source: InternalIterator, sequence: SequenceNumber, tombstones: FragmentedTombstones,
        lowerBound: [UInt8]?, upperBound: [UInt8]?, pins: [AnyObject]
    ) {
        self.source = source
        self.sequence = sequence
        self.tombstones = tombstones
        self.lowerBound = lowerBound
        self.upperBound = upperBound
        self.pins = pins
    }

    public var isValid: Bool { position != .invalid }

    /// The current key; valid until the cursor moves.
    public var key: UnsafeRawBufferPointer {
        switch position {
        case .forward: return source.userKey
        case .backward: return savedKey.bytes
        case .invalid: return UnsafeRawBufferPointer(start: nil, count: 0)
        }
    }

    /// The current value; valid until the cursor moves.
    public var value: UnsafeRawBufferPointer {
        switch position {
        case .forward: return source.value
        case .backward: return savedValue.bytes
        case .invalid: return UnsafeRawBufferPointer(start: nil, count: 0)
        }
    }

    public func seekToFirst() throws(EngineError) {
        if let lowerBound {
            try seek(lowerBound)
        } else {
            try guarded { () throws(EngineError) in
                try source.seekToFirst()
                try settleForward(skipping: false)
            }
        }
    }

    public func seekToLast() throws(EngineError) {
        try guarded { () throws(EngineError) in
            if let upperBound {
                try upperBound.withEngineBytes { bound throws(EngineError) in try source.seekBefore(bound, .first) }
            } else {
                try source.seekToLast()
            }
            try settleBackward()
        }
    }

    /// To the first key at or after `key`.
    public func seek(_ key: UnsafeRawBufferPointer) throws(EngineError) {
        try guarded { () throws(EngineError) in
            if let lowerBound, lowerBound.withUnsafeBytes({ compareKeys(key, $0) < 0 }) {
                try lowerBound.withEngineBytes { bound throws(EngineError) in try source.seek(bound, .seek(sequence)) }
            } else {
                try source.seek(key, .seek(sequence))
            }
            try settleForward(skipping: false)
        }
    }

    /// To the last key at or before `key`.
    public func seekForPrevious(_ key: UnsafeRawBufferPointer) throws(EngineError) {
        try guarded { () throws(EngineError) in
            if let upperBound, upperBound.withUnsafeBytes({ compareKeys($0, key) <= 0 }) {
                try upperBound.withEngineBytes { bound throws(EngineError) in try source.seekBefore(bound, .first) }
            } else {
                // Past every entry of the key.
                try source.seek(key, .last)
                if source.isValid { try source.previous() } else { try source.seekToLast() }
            }
            try settleBackward()
        }
    }

    public func seek(_ key: [UInt8]) throws(EngineError) {
        try key.withEngineBytes { bytes throws(EngineError) in try seek(bytes) }
    }
    public func seekForPrevious(_ key: [UInt8]) throws(EngineError) {
        try key.withEngineBytes { bytes throws(EngineError) in try seekForPrevious(bytes) }
    }

    public func next() throws(EngineError) {
        guard position != .invalid else { return }
        try guarded { () throws(EngineError) in
            if position == .backward {
                // The source stands somewhere before the entries of the current key: it may have passed over what is
                // covered in between.
                try source.seek(savedKey.bytes, .last)
            } else {
                savedKey.set(source.userKey)
                try source.next()
            }
            try settleForward(skipping: true)
        }
    }

    public func previous() throws(EngineError) {
        guard position != .invalid else { return }
        try guarded { () throws(EngineError) in
            if position == .forward {
                // Before every entry of the current key.
                savedKey.set(source.userKey)
                try source.seekBefore(savedKey.bytes, .first)
            }
            try settleBackward()
        }
    }

    /// After an error the cursor stands nowhere.
    private func guarded(_ move: () throws(EngineError) -> Void) throws(EngineError) {
        do throws(EngineError) { try move() } catch {
            position = .invalid
            throw error
        }
    }

    /// Entries of one key to step over before it is cheaper to search past them.
    private static let stepsBeforeSeek = 8

    /// Moves the source forward to the next visible entry. `skipping`: entries of `savedKey` are passed over.
    private func settleForward(skipping: Bool) throws(EngineError) {
        position = .invalid
        var isSkipping = skipping
        var steps = 0
        var covered = 0
        while source.isValid {
            let key = source.userKey
            if let upperBound, upperBound.withUnsafeBytes({ compareKeys($0, key) <= 0 }) { return }
            if isSkipping, compareKeys(key, savedKey.bytes) == 0 {
                steps += 1
                if steps > DatabaseIterator.stepsBeforeSeek {
                    steps = 0
                    try source.seek(savedKey.bytes, .last)
                    // What is left of the key there is its very last possible entry.
                } else {
                    try source.next()
                }
                continue
            }
            let trailer = source.trailer
            if trailer.sequence > sequence {
                steps += 1
                if steps > DatabaseIterator.stepsBeforeSeek {
                    steps = 0
                    savedKey.set(key)
                    isSkipping = false
                    try source.seek(savedKey.bytes, .seek(sequence))
                } else {
                    try source.next()
                }
                continue
            }
            steps = 0
            let fragment = coveringFragment(key, trailer.sequence)
            if trailer.kind == .put, fragment == nil {
                position = .forward
                return
            }
            savedKey.set(key)
            isSkipping = true
            covered = fragment == nil ? 0 : covered + 1
            if let fragment, covered > DatabaseIterator.stepsBeforeSeek {
                covered = 0
                // Where nothing can be passed over, the next round steps past the key.
                try source.skip(
                    to: tombstones.end(ofFragment: fragment), upTo: tombstones.newest(ofFragment: fragment, upTo: sequence))
            } else {
                try source.next()
            }
        }
    }

    /// The fragment of range tombstones that deletes an entry; nil when none does.
    @inline(__always)
    private func coveringFragment(_ key: UnsafeRawBufferPointer, _ entrySequence: SequenceNumber) -> Int? {
        if tombstones.isEmpty { return nil }
        let index = tombstones.firstFragment(endingAfter: key)
        guard index < tombstones.count, compareKeys(tombstones.begin(ofFragment: index), key) <= 0,
            tombstones.newest(ofFragment: index, upTo: sequence) > entrySequence
        else { return nil }
        return index
    }

    /// The source stands on the last entry of the key to examine, or before the start. Walks back over whole
    /// keys until one is visible.
    private func settleBackward() throws(EngineError) {
        position = .invalid
        var covered = 0
        while source.isValid {
            if let lowerBound, lowerBound.withUnsafeBytes({ compareKeys(source.userKey, $0) < 0 }) { return }
            savedKey.set(source.userKey)
            var isVisible = false
            var fragment: Int?
            // Backward, the entries of a key come oldest first: the last one at or below `sequence` decides.
            while source.isValid, compareKeys(source.userKey, savedKey.bytes) == 0 {
                let trailer = source.trailer
                if trailer.sequence <= sequence {
                    fragment = coveringFragment(savedKey.bytes, trailer.sequence)
                    isVisible = trailer.kind == .put && fragment == nil
                    if isVisible { savedValue.set(source.value) }
                }
                try source.previous()
            }
            if isVisible {
                position = .backward
                return
            }
            covered = fragment == nil ? 0 : covered + 1
            if let fragment, covered > DatabaseIterator.stepsBeforeSeek {
                covered = 0
                // Where nothing can be passed over, the next round examines the key before.
                try source.skipBack(
                    to: tombstones.begin(ofFragment: fragment),
                    upTo: tombstones.newest(ofFragment: fragment, upTo: sequence))
            }
        }
    }
}

/// A reusable copy of some bytes. One thread.
struct KeyBuffer: ~Copyable {
    private var storage: UnsafeMutableRawPointer?
    private var capacity = 0
    private var count = 0

    deinit { storage?.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: storage, count: count) }

    mutating func set(_ source: UnsafeRawBufferPointer) {
        if source.count > capacity {
            storage?.deallocate()
            capacity = max(source.count, 2 * capacity, 64)
            storage = .allocate(byteCount: capacity, alignment: 8)
        }
        if let storage, let base = source.baseAddress { memmove(storage, base, source.count) }
        count = source.count
    }
}
