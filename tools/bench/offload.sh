#!/bin/sh
# What each layer of offloading buys: the ablation of O3-LSM's paper on one machine.
#
#   tools/bench/offload.sh [DIRECTORY]
#
# Runs fillrandom for none, compaction, flush and all, interleaved, RUNS times (default 3), the writer on one
# processor and the worker on another, with storage as it is and at a simulated distance. Writes
# docs/offload.jsonl and draws docs/offload.svg. BYTES is how much is written in each run (default 1280 MiB, ten
# times the 128 MiB of write buffers that the first three have; the last one's extend into 4 GiB of disaggregated
# memory, which is touched before the start); MEMTABLE is the size of one of these buffers (default 64M); VALUES are
# the sizes of values (default "64 1024").
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES python3
need_swift
swift build -c release --product o3fs
o3fs=$(swift build -c release --show-bin-path)/o3fs
where=${1:-$(mktemp -d)}
bytes=${BYTES:-1342177280}
out=docs/offload.jsonl
: >"$out.new"

run=1
while [ "$run" -le "${RUNS:-3}" ]; do
    for distance in "" "--storage-latency 500 --storage-bandwidth 100M"; do
        for value in ${VALUES:-64 1024}; do
            for layer in none compaction flush all; do
                rm -rf "$where/store"
                # shellcheck disable=SC2086  # a list of words
                line=$("$o3fs" bench "$where/store" --json --benchmarks fillrandom --num $((bytes / (16 + value))) \
                    --value-size "$value" --memtable-size "${MEMTABLE:-64M}" --local-buffer 128M --offload "$layer" \
                    --dm-size 4G --dm-prefault --cpus 0 --worker-cpus 1 $distance)
                echo "{\"layer\":\"$layer\",\"value_size\":$value,\"distance\":\"$distance\",\"run\":$run,\"result\":$line}" |
                    tee -a "$out.new"
            done
        done
    done
    run=$((run + 1))
done
rm -rf "$where/store"
mv "$out.new" "$out"
python3 tools/bench/offload-plot.py "$out" docs/offload.svg
