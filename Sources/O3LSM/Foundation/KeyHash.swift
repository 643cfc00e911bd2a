/// The hash of a user key: bloom filters on storage, memtable filters, the key→offset cache.
///
/// It is part of the table format: the same key has the same hash in every build and on every
/// processor. 64 well-mixed bits, a few nanoseconds for a short key; not meant to resist keys that
/// are chosen to collide. The idea (fold the halves of 64×64-bit products) is that of Wang Yi's
/// wyhash; it gives other values.
func hashKey(_ key: UnsafeRawBufferPointer) -> UInt64 {
    let count = key.count
    guard count > 0, let base = key.baseAddress else { return foldedProduct(hashSecret1, hashSecret2) }
    var state = hashSecret0
    let first: UInt64
    let second: UInt64
    if count >= 8 {
        // The last 16 bytes (8 … 16 bytes: the first and last 8) overlap what the loop has seen.
        var offset = 0
        while count - offset > 16 {
            state = foldedProduct(loadWord(base, offset) ^ hashSecret1, loadWord(base, offset + 8) ^ state)
            offset += 16
        }
        first = loadWord(base, max(0, count - 16))
        second = loadWord(base, count - 8)
    } else if count >= 4 {
        first = loadHalf(base, 0)
        second = loadHalf(base, count - 4)
    } else {
        let bytes = base.assumingMemoryBound(to: UInt8.self)
        first = UInt64(bytes[0]) << 16 | UInt64(bytes[count >> 1]) << 8 | UInt64(bytes[count - 1])
        second = 0
    }
    let mixed = foldedProduct(first ^ hashSecret1 ^ UInt64(count), second ^ state)
    return foldedProduct(mixed ^ hashSecret2, hashSecret3 ^ UInt64(count))
}

// Fractional bits of the golden ratio and of the square roots of 2, 3 and 5: nothing up the sleeve.
private let hashSecret0: UInt64 = 0x9e37_79b9_7f4a_7c15
private let hashSecret1: UInt64 = 0x6a09_e667_f3bc_c909
private let hashSecret2: UInt64 = 0xbb67_ae85_84ca_a73b
private let hashSecret3: UInt64 = 0x3c6e_f372_fe94_f82b

/// Both halves of the 128-bit product, folded into one word.
@inline(__always)
private func foldedProduct(_ left: UInt64, _ right: UInt64) -> UInt64 {
    let product = left.multipliedFullWidth(by: right)
    return product.high ^ product.low
}

@inline(__always)
private func loadWord(_ base: UnsafeRawPointer, _ offset: Int) -> UInt64 {
    UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
}

@inline(__always)
private func loadHalf(_ base: UnsafeRawPointer, _ offset: Int) -> UInt64 {
    UInt64(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
}
