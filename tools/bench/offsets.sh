#!/bin/bash
# Random reads of memtables that wait for their flush, without an offset cache and with some, in turns.
# Storage is made slow, so that memtables stay in memory while they are read.
#
#   tools/bench/offsets.sh [--num 200000] [--rounds 3] [--budgets "0 1M 16M"] [--dir DIR]
#
# Prints one line a run: budget, ops/s of the first pass (which fills the cache) and of the second one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
num=200000 rounds=3 budgets="0 1M 16M" parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --num) num=$2 ;;
        --rounds) rounds=$2 ;;
        --budgets) budgets=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-offsets-XXXXXX")
trap 'rm -rf "$work"' EXIT
for _ in $(seq "$rounds"); do
    for budget in $budgets; do
        "$o3fs" bench "$work/store" --benchmarks fillrandom,readrandom,readrandom --num "$num" --dm-size 512M \
            --memtable-size 4M --storage-bandwidth 2M --offset-cache "$budget" --json |
            jq -r 'select(.name == "readrandom").ops_per_second | round' | paste -sd' ' | sed "s/^/$budget /"
    done
done
