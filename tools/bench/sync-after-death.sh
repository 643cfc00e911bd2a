#!/bin/bash
# How long the first fsync takes after the daemon of a mount was killed, with most of a gigabyte in DM that the log of
# the dead one had synced.
#
#   tools/bench/sync-after-death.sh [--runs 3] [--storage-bandwidth BYTES] [--dir DIR]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
runs=3 bandwidth='' parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 ;;
        --storage-bandwidth) bandwidth=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq fuse3
use_release_binary
work=$(mktemp -d "$parent/o3fs-sync-XXXXXX")
trap 'umount -l "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/mnt"

# seconds COMMAND...
seconds() {
    local start
    start=$(date +%s%N)
    "$@"
    awk -v start="$start" -v end="$(date +%s%N)" 'BEGIN { printf "%.3f\n", (end - start) / 1e9 }'
}
for run in $(seq "$runs"); do
    "$o3fs" mount "$work/store" "$work/mnt" --dm-size 2G --memtable-size 512M --workers 0 \
        ${bandwidth:+--storage-bandwidth "$bandwidth"} >&2
    head -c 900M /dev/urandom >"$work/mnt/file"
    sync "$work/mnt/file"
    held=$("$o3fs" status "$work/mnt" --json | jq '[.dm.memtables[].bytes] | add')
    echo before >"$work/mnt/small"
    echo "fsync-before-s $(seconds sync "$work/mnt/small")"
    kill -9 "$("$o3fs" status "$work/mnt" --json | jq .daemon.pid)"
    echo "write-after-s $(seconds cp "$work/mnt/small" "$work/mnt/other")"
    echo "fsync-after-s $(seconds sync "$work/mnt/other")"
    echo "MiB-in-DM $((held >> 20))"
    "$o3fs" umount "$work/mnt" >&2
    rm -r "$work/store"
done | tee "$work/runs"
say "medians of $runs runs"
for name in $(cut -d' ' -f1 "$work/runs" | sort -u); do
    echo "$name $(grep "^$name " "$work/runs" | cut -d' ' -f2 | median)"
done
