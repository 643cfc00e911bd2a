#!/bin/bash
# How long the flush of one memtable of 256 MiB takes, by its shards and by the workers that execute it, each with one
# thread and with two.
#
#   tools/bench/flush.sh [--runs 3] [--dir DIR]
#
# Prints rows of a Markdown table, in milliseconds (medians).
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
need_packages jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-flush-XXXXXX")
trap 'rm -rf "$work"' EXIT

# Boundaries are learned from a first memtable, which is flushed before the one that is measured is written.
flush_once() {
    "$o3fs" bench "$work/store" --benchmarks fillrandom,flush,overwrite,flush --num 262144 --value-size 984 \
        --memtable-size 300M --dm-size 1600M --dm-prefault --offload all --workers "$2" --worker-threads "$3" \
        --shards "$1" --json | jq -r 'select(.name == "flush") | 1000 / .ops_per_second | round' | tail -n 1
}
echo "| threads of a worker | workers | 1 shard | 2 shards | 4 shards | 8 shards |"
echo "|---|---|---|---|---|---|"
for threads in 1 2; do
    for workers in 1 2; do
        row="| $threads | $workers |"
        for shards in 1 2 4 8; do
            row+=" $(for _ in $(seq "$runs"); do flush_once "$shards" "$workers" "$threads"; done | median) |"
        done
        echo "$row"
    done
done
