#!/bin/bash
# The daemon's memory besides DM and the block cache, with a million files that the kernel knows.
#
#   tools/bench/memory.sh [--files 1000000] [--dir DIR]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
files=1000000 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --files) files=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages jq fuse3 gcc libc6-dev
use_release_binary
work=$(mktemp -d "$parent/o3fs-memory-XXXXXX")
trap 'umount -l "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/mnt"
gcc -O2 -o "$work/touch" -xc - <<'C'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char path[4096];
    for (int file = 0; file < atoi(argv[2]); file++) {
        if (file % 1000 == 0) { sprintf(path, "%s/d%04d", argv[1], file / 1000); if (mkdir(path, 0755)) return 1; }
        sprintf(path, "%s/d%04d/f%07d", argv[1], file / 1000, file);
        int descriptor = open(path, O_CREAT | O_WRONLY, 0644);
        if (descriptor < 0 || write(descriptor, path, 64) != 64) return 1;
        close(descriptor);
    }
}
C
"$o3fs" mount "$work/store" "$work/mnt" --dm-size 512M --cache-size 64M >&2
"$work/touch" "$work/mnt" "$files"
daemon=$("$o3fs" status "$work/mnt" --json | jq .daemon.pid)
cache=$("$o3fs" stats "$work/mnt" --json | jq '[.. | objects | select(has("used_bytes")) | .used_bytes] | first')
anonymous=$(awk '/^RssAnon/ { print $2 * 1024 }' "/proc/$daemon/status")
printf 'files: %s\nanonymous memory of the daemon: %d MiB, block cache %d MiB, besides it %d MiB\n' \
    "$files" $((anonymous >> 20)) $((cache >> 20)) $(((anonymous - cache) >> 20))
"$o3fs" umount "$work/mnt"
