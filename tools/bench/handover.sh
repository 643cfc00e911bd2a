#!/bin/bash
# What writers pay for a sealed memtable: the switch to the next one (placement direct), and the transfer to DM
# (placement staged), beside this machine's memcpy and beside a run too short for any transfer.
#
#   tools/bench/handover.sh [--runs 3] [--dir DIR]
#
# Memtables of 64 MiB, 400-byte values, the writer on processor 0 and a worker on processor 1. Prints one line a run,
# and the medians.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
runs=3 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq linux-perf
use_release_binary
work=$(mktemp -d "$parent/o3fs-handover-XXXXXX")
trap 'rm -rf "$work"' EXIT

# fill PLACEMENT NUM: the workload's line and the engine's statistics.
fill() {
    "$o3fs" bench "$work/store" --benchmarks fillrandom --num "$2" --value-size 400 --offload all --placement "$1" \
        --memtable-size 64M --dm-size 1G --dm-prefault --local-buffer 192M --cpus 0 --worker-cpus 1 --json --statistics |
        tail -n 2
}
for run in $(seq "$runs"); do
    fill direct 2000000 | jq -rs '"direct-switch-mean-us \(.[1].hand_over | .seconds / .count * 1e6 | round)",
        "direct-switch-longest-us \(.[1].hand_over.longest_seconds * 1e6 | round)"'
    fill staged 130000 | jq -rs '"staged-ops-without-transfer \(.[0].ops_per_second | round)"'
    fill staged 2000000 | jq -rs '"staged-ops-with-transfers \(.[0].ops_per_second | round)",
        "staged-transfer-GB/s \(.[1].offload | .bytes / .seconds / 1e7 | round / 100)",
        "staged-switch-longest-us \(.[1].hand_over.longest_seconds * 1e6 | round)"'
    perf bench mem memcpy -s 64MB -l 20 2>/dev/null | awk '/GB\/sec/ { print "memcpy-GB/s", $1; exit }'
done | tee "$work/runs"
say "medians of $runs runs"
for name in $(cut -d' ' -f1 "$work/runs" | sort -u); do
    echo "$name $(grep "^$name " "$work/runs" | cut -d' ' -f2 | median)"
done
