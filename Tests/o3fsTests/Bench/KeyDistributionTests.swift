import Foundation
import Testing

@testable import o3fs

/// The distributions of keys against what their definitions say.
struct KeyDistributionTests {
    private static let draws = 200_000

    /// How often each of `count` numbers came.
    private func histogram(_ distribution: KeyDistribution, count: Int) -> [Int] {
        let chooser = KeyChooser(distribution, count: count)
        var random = WorkloadRandom(seed: 42)
        var times = [Int](repeating: 0, count: count)
        for _ in 0..<Self.draws { times[Int(chooser.next(&random))] += 1 }
        return times
    }

    @Test func uniformFavoursNobody() {
        let times = histogram(.uniform, count: 100)
        // 2000 each, standard deviation 45: six of them.
        #expect(times.allSatisfy { abs($0 - 2000) < 270 }, "\(times)")
    }

    @Test(arguments: [1, 2, 3, 10, 1000])
    func ranksFollowZipf(count: Int) {
        let zipfian = Zipfian(items: UInt64(count))
        var random = WorkloadRandom(seed: 7)
        var times = [Int](repeating: 0, count: count)
        for _ in 0..<Self.draws { times[Int(zipfian.next(&random))] += 1 }
        let weights = (1...count).map { pow(Double($0), -Zipfian.exponent) }
        let zeta = weights.reduce(0, +)
        // The first two ranks are exact, the others those of a continuous curve: their sum is exact, too.
        for rank in 0..<min(2, count) {
            let expected = weights[rank] / zeta
            let deviation = (expected * (1 - expected) * Double(Self.draws)).squareRoot()
            #expect(abs(Double(times[rank]) - expected * Double(Self.draws)) <= 6 * deviation, "\(rank): \(times[rank])")
        }
        if count == 1000 {
            let firstHundred = times[..<100].reduce(0, +)
            let expected = weights[..<100].reduce(0, +) / zeta
            #expect(abs(Double(firstHundred) / Double(Self.draws) - expected) < 0.03, "\(firstHundred)")
            #expect(times.allSatisfy { $0 > 0 })
        }
    }

    @Test func growingIsTheSameAsBeingLarger() {
        var grown = Zipfian(items: 10)
        for _ in 0..<90 { grown.grow() }
        let made = Zipfian(items: 100)
        var one = WorkloadRandom(seed: 3)
        var other = WorkloadRandom(seed: 3)
        for _ in 0..<10_000 { #expect(grown.next(&one) == made.next(&other)) }
    }

    @Test func latestFavoursTheYoungest() {
        let times = histogram(.latest, count: 1000)
        #expect(times[999] == times.max())
        #expect(times[999] > times[998] && times[998] > times[900])
        var chooser = KeyChooser(.latest, count: 1000)
        chooser.grow()
        var random = WorkloadRandom(seed: 5)
        #expect((0..<1000).contains { _ in chooser.next(&random) == 1000 })
    }

    @Test func zipfianScattersItsPopularKeys() {
        let times = histogram(.zipfian, count: 10_000)
        let popular = times.indices.sorted { times[$0] > times[$1] }.prefix(10)
        #expect(times.max() ?? 0 > Self.draws / 20)
        #expect((popular.max() ?? 0) - (popular.min() ?? 0) > 2000, "\(popular)")
        // The popular ones stay as keys are added.
        var chooser = KeyChooser(.zipfian, count: 10_000)
        chooser.grow()
        #expect(chooser.count == 10_000)
    }
}
