#!/bin/sh
# What the choice between direct and delegated reads costs where memory is at hand: reads take turns of 4 ms with and without
# delegation within one process, since runs that follow each other differ by more than what is looked for.
#
#   tools/bench/delegation-cost.sh [DIRECTORY]
#
# RUNS (3) times point reads, scans of ten and batches of eight, or WORKLOADS, with READS operations; LATENCY (0) is the simulated
# distance in µs, POLICY auto. Prints, as JSON, operations a second with delegation over those without (ratio), and half of the
# interval that holds it with a probability of 95 % (margin).
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES
need_swift
[ -n "${O3FS_BINARY:-}" ] || swift build -c release --product o3fs
o3fs=${O3FS_BINARY:-$(swift build -c release --show-bin-path)/o3fs}
where=${1:-$(mktemp -d)}
mkdir -p "$where"
run=1
while [ "$run" -le "${RUNS:-3}" ]; do
    for workload in ${WORKLOADS:-readrandom seekrandom multireadrandom}; do
        rm -rf "$where/store"
        # About a minute each; keys are what multireadrandom counts. Storage is so slow that all stays in memory meanwhile.
        case $workload in
            seekrandom) reads=4000000 ;;
            *) reads=40000000 ;;
        esac
        "$o3fs" bench "$where/store" --json --benchmarks "fillrandom,$workload" --num 30000 --reads "${READS:-$reads}" \
            --seek-nexts 10 --batch-size 8 --dm-size 256M --dm-prefault --memtable-size 1M --compression none \
            --storage-bandwidth 10K --dm-latency "${LATENCY:-0}" --read-delegation "${POLICY:-auto}" --workers 1 \
            --offset-cache "${OFFSET_CACHE:-0}" --compare-delegation | grep "\"name\":\"$workload\""
    done
    run=$((run + 1))
done
rm -rf "$where/store"
