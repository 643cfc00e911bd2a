import Foundation
import Testing

/// A process that serves reads is killed with SIGKILL again and again while readers wait for its answers: every read is
/// answered all the same, with what was written under its key, and none takes long.
@Suite(.enabled(if: O3FSBinary.path != nil, needsBinary)) struct ReadsWorkerDeathTests {
    private static let reads = 250_000

    /// Runs a benchmark that leaves reads to workers, and kills those again and again meanwhile: they are its children, which
    /// it starts again. One dies when it has served for a hundredth of a second of the processor, however long that takes on
    /// a loaded machine: so each has answered before. Storage is so slow that sealed memtables stay, memory so far that reads
    /// take their time, and `--verify` checks each value.
    ///
    /// - Returns: the objects that it prints, and one with the number of kills.
    private func benchWithDyingWorkers(_ arguments: String) throws -> [[String: Any]] {
        let directory = try TemporaryDirectory("killed-servers")
        defer { withExtendedLifetime(directory) {} }
        let output = try Shell.script(
            """
            '\(try #require(O3FSBinary.path))' bench "$PWD/store" --num 20000 --verify --json --statistics \
                --compression none --dm-latency 2 --read-delegation on \
                \(arguments) >output 2>errors &
            bench=$!
            kills=0
            while kill -0 $bench 2>/dev/null; do
                sleep 0.05
                for worker in $(cat /proc/$bench/task/*/children 2>/dev/null); do
                    for thread in /proc/$worker/task/*; do
                        [ "$(cat $thread/comm 2>/dev/null)" = o3-reads ] || continue
                        [ "$(awk '{ print $14 + $15 }' $thread/stat 2>/dev/null || echo 0)" -lt 1 ] 2>/dev/null && continue
                        kill -9 $worker && kills=$((kills + 1))
                    done
                done
            done
            wait $bench || { cat errors >&2; exit 1; }
            echo "{\\"kills\\": $kills}"
            cat output
            """, in: directory.path)
        return output.lines.compactMap { try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }
    }

    @Test(.timeLimit(.minutes(3))) func readersOutliveTheirServers() throws {
        let objects = try benchWithDyingWorkers(
            "--benchmarks fillseq,readrandom --threads 1 --reads \(Self.reads) --storage-bandwidth 100K --workers 1 "
                + "--dm-size 256M --memtable-size 1M")
        let kills = try #require(objects.compactMap { $0["kills"] as? Int }.first)
        #expect(kills >= 3)
        let result = try #require(objects.first { $0["name"] as? String == "readrandom" })
        #expect(result["found"] as? Int == Self.reads)
        // A server's end is seen within a millisecond; the rest is room for a loaded machine.
        #expect(try #require(result["p999_us"] as? Double) < 100_000)
        let statistics = try #require(objects.compactMap { $0["delegation"] as? [String: Any] }.first)
        #expect(try #require(statistics["answered"] as? Int) > 1000, "\(statistics)")
        #expect(statistics["damaged"] as? Int == 0, "\(statistics)")
    }

    /// The same with several readers, a writer beside them, and scans, whose requests are several at once.
    @Test(.timeLimit(.minutes(3))) func readersAndScansBesideAWriter() throws {
        let objects = try benchWithDyingWorkers(
            "--benchmarks fillseq,readwhilewriting,seekrandom --threads 3 --reads 1000000000 --duration 8 --seek-nexts 20 "
                + "--benchmark-write-rate-limit 500K --storage-bandwidth 100K --workers 3 "
                + "--dm-size 256M --memtable-size 1M")
        #expect(try #require(objects.compactMap { $0["kills"] as? Int }.first) >= 6)
        for name in ["readwhilewriting", "seekrandom"] {
            let result = try #require(objects.first { $0["name"] as? String == name })
            #expect(try #require(result["operations"] as? Int) > 0)
            #expect(try #require(result["p999_us"] as? Double) < 200_000, "\(result)")
        }
        let statistics = try #require(objects.compactMap { $0["delegation"] as? [String: Any] }.first)
        #expect(try #require(statistics["answered"] as? Int) > 1000, "\(statistics)")
        #expect(try #require(statistics["ranges"] as? Int) > 100, "\(statistics)")
        #expect(statistics["damaged"] as? Int == 0, "\(statistics)")
    }
}
