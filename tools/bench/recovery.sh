#!/bin/bash
# How long a mount takes to come back after kill -9, with a gigabyte and more of memtables in DM.
#
#   tools/bench/recovery.sh [--dir DIR]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
parent=${TMPDIR:-/tmp}
[ "${1:-}" != --dir ] || parent=$2
need_packages jq fuse3
use_release_binary
work=$(mktemp -d "$parent/o3fs-recovery-XXXXXX")
trap 'umount -l "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/mnt"
set -- --no-survive --dm-size 5G --memtable-size 1G --commit-interval 60000
"$o3fs" mount "$work/store" "$work/mnt" "$@" >&2
# More than a gigabyte, a large part of it in the memtable that is still being written: recovery must read that.
dd if=/dev/zero bs=1M count=1360 2>/dev/null | tr '\0' 'x' >"$work/source"
cp "$work/source" "$work/mnt/file"
held=$("$o3fs" status "$work/mnt" --json | jq '[.dm.memtables[].bytes] | add')
kill -9 "$("$o3fs" status "$work/mnt" --json | jq .daemon.pid)"
sleep 0.5
umount -l "$work/mnt"
"$o3fs" mount "$work/store" "$work/mnt" "$@" >&2
printf 'memtables in DM: %s bytes\n' "$held"
"$o3fs" status "$work/mnt" | grep 'opened from'
cmp "$work/source" "$work/mnt/file" && echo 'contents: the same'
"$o3fs" umount "$work/mnt"
