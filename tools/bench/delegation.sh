#!/bin/sh
# Reads of memtables that wait for their flush, left to a worker next to the memory or not, by distance of the memory.
#
#   tools/bench/delegation.sh [DIRECTORY]
#
# For each of LATENCIES (µs of a round trip, default "0 0.2 0.5 1 2 5 10") and each policy (off, on, auto), interleaved,
# RUNS times (default 3): random point reads, and in a store of their own random scans of ten entries; as many as take about
# two seconds. Storage is so slow that most memtables stay in memory. Writes docs/delegation.jsonl, draws
# docs/delegation.svg, prints a table. A run of the whole takes 2.5 minutes.
# OUT is another place for the results; APPEND=1 adds to them.
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES python3
need_swift
[ -n "${O3FS_BINARY:-}" ] || swift build -c release --product o3fs
o3fs=${O3FS_BINARY:-$(swift build -c release --show-bin-path)/o3fs}
where=${1:-$(mktemp -d)}
mkdir -p "$where"
out=${OUT:-docs/delegation.jsonl}
[ -n "${APPEND:-}" ] || : >"$out"

run=1
while [ "$run" -le "${RUNS:-3}" ]; do
    for latency in ${LATENCIES:-0 0.2 0.5 1 2 5 10}; do
        for policy in off on auto; do
            for workload in readrandom seekrandom; do
                # Microseconds that a read takes on this machine, about.
                reads=$(awk -v l="$latency" -v p="$policy" -v w="$workload" 'BEGIN {
                    direct = w == "readrandom" ? 0.75 + 16 * l : 8.5 + 109 * l
                    asking = w == "readrandom" ? 2.5 + 3 * l : 32 + 12 * l
                    best = direct < asking ? direct : asking
                    print int(2200000 / (p == "off" ? direct : p == "on" ? asking : best)) }')
                rm -rf "$where/store"
                "$o3fs" bench "$where/store" --json --benchmarks "fillrandom,$workload" --num 30000 --reads "$reads" \
                    --seek-nexts 10 --dm-size 256M --dm-prefault --memtable-size 1M --compression none \
                    --storage-bandwidth 400K --dm-latency "$latency" --read-delegation "$policy" --workers 1 \
                    --offset-cache 0 |
                    sed -n "/\"name\":\"$workload\"/s/.*/{\"latency\":$latency,\"policy\":\"$policy\",\"result\":&}/p" \
                        >>"$out"
            done
        done
    done
    run=$((run + 1))
done
rm -rf "$where/store"
python3 tools/bench/delegation-plot.py "$out" "${out%.jsonl}.svg"
