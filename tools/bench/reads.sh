#!/bin/bash
# One cell of the matrix of reads: the engine beside RocksDB's db_bench with the same keys, values, LZ4, 10 bits of bloom
# and size of cache, in turns in one run. Appends a line of JSON for each workload and run to --out, and prints a table of
# medians with the header only when the first cell is asked for.
#
#   tools/bench/reads.sh --data memtables|cache|storage [--value 100] [--runs 3] [--dir DIR] [--out RESULTS.jsonl]
#
#   memtables   64 MB that no flush has touched
#   cache       64 MB, compacted, in a cache of 256 MiB that a pass of random reads has filled
#   storage     compacted, three times the cache of 38 MiB: random keys leave 63 % of 192 MB; the kernel caches the files of both
#
# The writer of readwhilewriting writes 10 MB a second. RocksDB keeps filters and indexes beside its cache, as is its default
# (within it, the filter of a table is larger than one of the 64 parts of 38 MiB, and is read again each time).
set -euo pipefail
. "$(dirname "$0")/lib.sh"

data= value=100 runs=3 parent=${TMPDIR:-/tmp} out=/dev/null
while [ $# -gt 0 ]; do
    case $1 in
        --data) data=$2 ;;
        --value) value=$2 ;;
        --runs) runs=$2 ;;
        --dir) parent=$2 ;;
        --out) out=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done

need_packages rocksdb-tools jq
use_release_binary
work=$(mktemp -d "$parent/o3fs-reads-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT

megabytes=64 cache=256 memtable=64 prepare=flush,waitforcompaction,compact,readrandom
case $data in
    memtables) memtable=120 prepare= ;;
    cache) ;;
    storage) megabytes=192 cache=38 prepare=flush,waitforcompaction,compact ;;
    *) die "--data is memtables, cache or storage" ;;
esac
entries=$((megabytes * 1000000 / (16 + value)))
reads=200000
[ "$value" -le 1024 ] || reads=50000
# The same name twice, as the pass that fills the cache: only the last line of a name counts. The writer comes last.
measured="readrandom readmissing seekrandom readseq multireadrandom readwhilewriting"
workloads=fillrandom,${prepare:+$prepare,}${measured// /,}

ours() {
    rm -rf "$work/o3"
    "$o3fs" bench "$work/o3" --benchmarks "$workloads" --num "$entries" --reads "$reads" --value-size "$value" \
        --key-size 16 --cache-size "${cache}M" --memtable-size "${memtable}M" --bloom-bits 10 --compression lz4 \
        --compression-ratio 0.5 --batch-size 32 --seek-nexts 10 --dm-size 512M \
        --benchmark-write-rate-limit 10000000 --json |
        jq -c '{name, ops_per_second, p99_us}'
    rm -rf "$work/o3"
}

theirs() {
    rm -rf "$work/rocks"
    db_bench --db="$work/rocks" --benchmarks="$workloads" --num="$entries" --reads="$reads" --value_size="$value" \
        --key_size=16 --cache_size="$((cache << 20))" --write_buffer_size="$((memtable << 20))" --bloom_bits=10 \
        --compression_type=lz4 --compression_ratio=0.5 --batch_size=32 --multiread_batched=true --seek_nexts=10 \
        --benchmark_write_rate_limit=10000000 --threads=1 --histogram=1 --max_background_jobs=4 2>/dev/null |
        awk '
            /micros\/op/ { name = $1; for (i = 2; i <= NF; i++) if ($i == "ops/sec") rate = $(i - 1) }
            /^Percentiles:/ { for (i = 2; i <= NF; i++) if ($i == "P99:") printf "{\"name\":\"%s\",\"ops_per_second\":%s,\"p99_us\":%s}\n", name, rate, $(i + 1) }'
    rm -rf "$work/rocks"
}

# keep SYSTEM: the last line of each measured workload on standard input, with where it belongs.
keep() {
    jq -c -s --arg system "$1" --arg data "$data" --argjson value "$value" --arg names "$measured" '
        . as $all | $names | split(" ")[] as $name | [$all[] | select(.name == $name)] | last
        | {system: $system, data: $data, value: $value, result: .}'
}

for run in $(seq "$runs"); do
    theirs | keep RocksDB >>"$work/lines"
    ours | keep O3LSM >>"$work/lines"
done
cat "$work/lines" >>"$out"

if [ "$data $value" = "memtables 100" ]; then
    machine
    printf '\n| data | value | workload | O3LSM ops/s | RocksDB ops/s | ratio | O3LSM P99 µs | RocksDB P99 µs |\n|---|--:|---|--:|--:|--:|--:|--:|\n'
fi
jq -r -s --arg names "$measured" --arg data "$data" --arg value "$value" '
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2] + .[length / 2 - 1]) / 2 end;
    def of($system; $name; $field): [.[] | select(.system == $system and .result.name == $name) | .result[$field]] | median;
    def tenth: . * 10 | round / 10;
    . as $all | $names | split(" ")[] as $name | $all
    | of("O3LSM"; $name; "ops_per_second") as $a | of("RocksDB"; $name; "ops_per_second") as $b
    | "| \($data) | \($value) B | \($name) | \($a | round) | \($b | round) | \($a / $b * 100 | round / 100) "
      + "| \(of("O3LSM"; $name; "p99_us") | tenth) | \(of("RocksDB"; $name; "p99_us") | tenth) |"' "$work/lines"
