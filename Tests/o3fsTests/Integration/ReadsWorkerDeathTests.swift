import Foundation
import Testing

/// A process that serves reads is killed with SIGKILL again and again while readers wait for its answers: every read is
/// answered all the same, with what was written under its key, and none takes long.
@Suite(.enabled(if: O3FSBinary.path != nil, needsBinary)) struct ReadsWorkerDeathTests {
    private static let reads = 250_000

    @Test(.timeLimit(.minutes(2))) func readersOutliveTheirServers() throws {
        let directory = try TemporaryDirectory("killed-server")
        defer { withExtendedLifetime(directory) {} }
        // Storage is so slow that sealed memtables stay; memory so far that they take seconds; `--verify` checks each
        // value. The workers are the children of the benchmark, which starts them again.
        let output = try Shell.script(
            """
            '\(try #require(O3FSBinary.path))' bench "$PWD/store" --benchmarks fillseq,readrandom --num 20000 --threads 1 \
                --reads \(Self.reads) --verify --json --statistics --dm-size 256M --memtable-size 1M --compression none \
                --storage-bandwidth 100K --dm-latency 2 --read-delegation on --workers 1 \
                >output 2>errors &
            bench=$!
            kills=0
            while kill -0 $bench 2>/dev/null; do
                sleep 0.3
                for worker in $(cat /proc/$bench/task/*/children 2>/dev/null); do
                    kill -9 $worker && kills=$((kills + 1))
                done
            done
            wait $bench || { cat errors >&2; exit 1; }
            echo "{\\"kills\\": $kills}"
            cat output
            """, in: directory.path)
        let objects = output.lines.compactMap {
            try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
        }
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
        let directory = try TemporaryDirectory("killed-servers")
        defer { withExtendedLifetime(directory) {} }
        let output = try Shell.script(
            """
            '\(try #require(O3FSBinary.path))' bench "$PWD/store" --benchmarks fillseq,readwhilewriting,seekrandom \
                --num 20000 --benchmark-write-rate-limit 500K --threads 3 --reads 1000000000 --duration 8 --seek-nexts 20 --verify --json --statistics \
                --dm-size 256M --memtable-size 1M --compression none \
                --storage-bandwidth 1M --dm-latency 2 --read-delegation on --workers 2 \
                >output 2>errors &
            bench=$!
            kills=0
            while kill -0 $bench 2>/dev/null; do
                # A worker that has just begun to serve is to have answered before it dies.
                sleep 1
                for worker in $(cat /proc/$bench/task/*/children 2>/dev/null); do
                    kill -9 $worker && kills=$((kills + 1))
                done
            done
            wait $bench || { cat errors >&2; exit 1; }
            echo "{\\"kills\\": $kills}"
            cat output
            """, in: directory.path)
        let objects = output.lines.compactMap {
            try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
        }
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
