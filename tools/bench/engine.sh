#!/bin/bash
# The engine beside RocksDB's db_bench: the same workloads, settings and disk, taken in turns in the
# same run. Prints Markdown tables with medians.
#
#   tools/bench/engine.sh [--num N] [--runs N] [--dir DIR] [--values "100 4096"] [--dm-size SIZE]
#
# DIR is where the stores are made and deleted; it must be on the disk that is to be measured. SIZE is
# that of the DM region, by default eight memtables: see "Fresh memory of a virtual machine" in docs/benchmarks.md
# for what a larger one does to a short run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

num=2000000 runs=3 parent=${TMPDIR:-/tmp} values="100 4096" cache=256M memtable=64M dm_size=512M
while [ $# -gt 0 ]; do
    case $1 in
        --num) num=$2 ;;
        --runs) runs=$2 ;;
        --dir) parent=$2 ;;
        --values) values=$2 ;;
        --dm-size) dm_size=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done

need_packages rocksdb-tools jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-engine-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT

workloads="fillseq fillrandom overwrite readrandom readmissing readseq readreverse seekrandom readwhilewriting"
# Reads begin when flushes and compactions have ended: who writes faster would have more of them left to do.
joined=$(echo "${workloads/readrandom/waitforcompaction readrandom}" | tr ' ' ',')
# Syncs take so much longer than anything else that both get this many of them, in a run of their own:
# ours makes a thousandth of --num, db_bench as many as it is told.
sync_operations=2000
# Keys of one call of multireadrandom; a run of its own, since it would be the size of write batches too.
keys_a_call=32
cache_bytes=$((256 << 20)) memtable_bytes=$((64 << 20))

# ours VALUE_SIZE NUM WORKLOADS [KEYS_A_CALL]: prints "workload ops_per_second p99_us" lines.
ours() {
    rm -rf "$work/o3"
    "$o3fs" bench "$work/o3" --benchmarks "$3" --num "$2" --value-size "$1" --key-size 16 \
        --cache-size "$cache" --memtable-size "$memtable" --bloom-bits 10 --compression lz4 \
        --compression-ratio 0.5 --threads 1 --batch-size "${4:-1}" --dm-size "$dm_size" --json |
        jq -r '"\(.name) \(.ops_per_second) \(.p99_us)"'
    rm -rf "$work/o3"
}

# theirs VALUE_SIZE NUM WORKLOADS [KEYS_A_CALL]: the same from db_bench, which counts keys too.
theirs() {
    rm -rf "$work/rocks"
    db_bench --db="$work/rocks" --benchmarks="$3" --num="$2" --value_size="$1" --key_size=16 \
        --cache_size="$cache_bytes" --write_buffer_size="$memtable_bytes" --bloom_bits=10 \
        --compression_type=lz4 --compression_ratio=0.5 --threads=1 --histogram=1 \
        --batch_size="${4:-1}" \
        --max_background_jobs=4 2>/dev/null |
        awk '
            /micros\/op/ { name = $1; for (i = 2; i <= NF; i++) if ($i == "ops/sec") rate[name] = $(i - 1); order[++n] = name }
            /^Percentiles:/ { for (i = 2; i <= NF; i++) if ($i == "P99:") p99[name] = $(i + 1) }
            END { for (i = 1; i <= n; i++) printf "%s %s %s\n", order[i], rate[order[i]], p99[order[i]] }'
    rm -rf "$work/rocks"
}

# column FILE WORKLOAD FIELD: the median of a field over the runs.
column() { awk -v name="$2" -v field="$3" '$1 == name { print $field }' "$1" | median; }

machine
printf '\n%s\n' "Medians of $runs runs, in turns; one thread, 16-byte keys, values that compress to half, LZ4, 10 bloom bits a key, $cache block cache, $memtable memtables, $dm_size of DM. Reads begin when flushes and compactions of the writes have ended. db_bench: RocksDB $(dpkg-query -W -f='${Version}' rocksdb-tools) from Debian (built with assertions)."

for value in $values; do
    # The larger values get fewer entries, so that each table takes about the same time.
    entries=$num
    [ "$value" -le 1024 ] || entries=$((num / 10))
    [ "$entries" -ge 1000 ] || entries=1000
    our_numbers=$work/ours.$value their_numbers=$work/theirs.$value
    for run in $(seq "$runs"); do
        printf 'values of %s bytes, run %s of %s\n' "$value" "$run" "$runs" >&2
        theirs "$value" "$entries" "$joined" >>"$their_numbers"
        settle
        ours "$value" "$entries" "$joined" >>"$our_numbers"
        settle
        theirs "$value" "$entries" fillrandom,waitforcompaction,multireadrandom "$keys_a_call" | grep '^multi' >>"$their_numbers"
        settle
        ours "$value" "$entries" fillrandom,waitforcompaction,multireadrandom "$keys_a_call" | grep '^multi' >>"$our_numbers"
        settle
        theirs "$value" "$sync_operations" fillsync >>"$their_numbers"
        settle
        ours "$value" $((sync_operations * 1000)) fillsync >>"$our_numbers"
        settle
    done
    printf '\n### %s entries with values of %s bytes\n\n' "$entries" "$value"
    printf '| workload | O3 ops/s | RocksDB ops/s | ratio | O3 p99 µs | RocksDB p99 µs |\n|---|--:|--:|--:|--:|--:|\n'
    for name in $workloads multireadrandom fillsync; do
        a=$(column "$our_numbers" "$name" 2)
        b=$(column "$their_numbers" "$name" 2)
        awk -v name="$name" -v a="$a" -v b="$b" -v pa="$(column "$our_numbers" "$name" 3)" -v pb="$(column "$their_numbers" "$name" 3)" \
            'BEGIN { printf "| %s | %.0f | %.0f | %s | %.1f | %.1f |\n", name, a, b, (b > 0 ? sprintf("%.2f", a / b) : "-"), pa, pb }'
    done
done
