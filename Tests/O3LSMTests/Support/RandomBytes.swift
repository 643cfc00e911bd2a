extension SeededRandom {
    /// `count` random bytes of the alphabet.
    mutating func bytes(_ count: Int, alphabet: ClosedRange<UInt8> = 0...255) -> [UInt8] {
        (0..<count).map { _ in UInt8.random(in: alphabet, using: &self) }
    }
}
