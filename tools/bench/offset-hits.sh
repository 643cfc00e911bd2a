#!/bin/bash
# Hit rates of the offset cache by budget, for uniform and zipfian reads of memtables that wait for their flush.
# Storage is made slow, so that memtables stay in memory while they are read.
#
#   tools/bench/offset-hits.sh [--num 600000] [--reads 1000000] [--budgets "1M 4M 16M 64M"] [--dir DIR]
#
# Prints a row a budget: lookups in sealed memtables that the cache answered, of all that it or a walk answered, in the
# second pass of reads. That is the difference of two runs, with one pass and with two.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
num=600000 reads=1000000 budgets="1M 4M 16M 64M" parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --num) num=$2 ;;
        --reads) reads=$2 ;;
        --budgets) budgets=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-offset-hits-XXXXXX")
trap 'rm -rf "$work"' EXIT

# counts BUDGET DISTRIBUTION PASSES: hits and misses so far.
counts() {
    "$o3fs" bench "$work/store" --benchmarks "fillrandom$(printf ',readrandom%.0s' $(seq "$3"))" --num "$num" \
        --reads "$reads" --distribution "$2" --dm-size 512M --memtable-size 16M --storage-bandwidth 1M \
        --compression none --offset-cache "$1" --json --statistics |
        jq -r 'select(.offset_cache).offset_cache | "\(.hits) \(.misses)"'
}

echo "| budget | uniform | zipfian |"
echo "|---|--:|--:|"
for budget in $budgets; do
    row="| ${budget%M} MiB |"
    for distribution in uniform zipfian; do
        once=$(counts "$budget" "$distribution" 1)
        twice=$(counts "$budget" "$distribution" 2)
        row+=" $(echo "$once $twice" | awk '{ h = $3 - $1; m = $4 - $2; printf "%.1f %%", 100 * h / (h + m) }') |"
    done
    echo "$row"
done
