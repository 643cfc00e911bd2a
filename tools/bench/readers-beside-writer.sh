#!/bin/bash
# Readers beside a writer, with everything offloaded to a worker process and with nothing, in turns: rates and latencies.
#
#   tools/bench/readers-beside-writer.sh [--runs 5] [--rate 10000000] [--dir DIR]
#
# --rate: bytes a second of the writer; 0: as many as it can. Prints a line a run, then a table of medians.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
runs=5 rate=10000000 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 ;;
        --rate) rate=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-readers-XXXXXX")
trap 'rm -rf "$work"' EXIT
limit=
[ "$rate" = 0 ] || limit="--benchmark-write-rate-limit $rate"

for run in $(seq "$runs"); do
    for offload in none all; do
        # shellcheck disable=SC2086  # a list of words
        "$o3fs" bench "$work/store" --benchmarks fillrandom,waitforcompaction,readwhilewriting --num 500000 --reads 3000000 \
            --value-size 100 --cache-size 256M --memtable-size 64M --dm-size 512M --dm-prefault --offload "$offload" \
            $limit --json |
            jq -c --arg offload "$offload" 'select(.name == "readwhilewriting") | {offload: $offload} + .' |
            tee -a "$work/lines" |
            jq -r --arg run "$run" '"run \($run), \(.offload): \(.ops_per_second | round) ops/s, P99 \(.p99_us) µs"' >&2
    done
done
machine
printf '\n| `--offload` | ops/s | P50 µs | P99 µs | P99.9 µs | background writes |\n|---|--:|--:|--:|--:|--:|\n'
for offload in none all; do
    row="| $offload |"
    for field in ops_per_second p50_us p99_us p999_us background_writes; do
        row+=" $(jq -r --arg o "$offload" --arg f "$field" 'select(.offload == $o)[$f]' "$work/lines" | median | awk '{ printf(($1 >= 100) ? "%d" : "%.1f", $1) }') |"
    done
    echo "$row"
done
