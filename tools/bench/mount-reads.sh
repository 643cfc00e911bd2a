#!/bin/bash
# Reads through the mount beside bindfs and beside the plain disk, in turns in the same run: listing a large tree, random
# and sequential reads of one file, a search of a source tree. Prints a Markdown table with medians of seconds.
#
#   tools/bench/mount-reads.sh [--files 200000] [--random 1280] [--sequential 4096] [--tree DIR] [--runs 3] [--dir DIR]
#                              [--only tree|file|grep]
#
# --random and --sequential are MiB; the random reads are 65,536 of 4 KiB, no block twice, in a file four times as large as
# the caches of O3FS together (64 MiB of blocks, 256 MiB of DM). bindfs shows the plain directory, so both read the same files.
# --tree is copied. Needs /dev/fuse and root, since the kernel's caches are dropped before each cold phase.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

files=200000 random=1280 sequential=4096 tree=/usr/include runs=3 parent=${TMPDIR:-/tmp} only="tree file grep"
while [ $# -gt 0 ]; do
    case $1 in
        --files) files=$2 ;;
        --random) random=$2 ;;
        --sequential) sequential=$2 ;;
        --tree) tree=$2 ;;
        --runs) runs=$2 ;;
        --dir) parent=$2 ;;
        --only) only=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done

need_packages fio jq bindfs util-linux
use_release_binary
[ -c /dev/fuse ] || die "/dev/fuse is missing"
[ "$(id -u)" = 0 ] || die "root is needed to drop the kernel's caches"

work=$(mktemp -d "$parent/o3fs-mount-reads-XXXXXX")
cleanup() {
    fusermount3 -uz "$work/bindfs" 2>/dev/null || true
    "$o3fs" umount "$work/o3fs" >/dev/null 2>&1 || umount -l "$work/o3fs" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/plain" "$work/bindfs" "$work/o3fs"
bindfs --multithreaded "$work/plain" "$work/bindfs"
"$o3fs" mount "$work/store" "$work/o3fs" --cache-size 64M --dm-size 256M >&2

drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# timed SYSTEM NAME COMMAND...: adds "SYSTEM NAME seconds" to the results.
timed() {
    system=$1 name=$2
    shift 2
    from=$(date +%s%N)
    "$@" >/dev/null
    echo "$system $name $(($(date +%s%N) - from))" | awk '{ printf "%s %s %.4f\n", $1, $2, $3 / 1e9 }' >>"$work/results"
}

random_read() {
    fio --name=random --filename="$1/random" --rw=randread --bs=4k --size="${random}M" --io_size=256M --ioengine=psync --randseed=7 \
        --minimal >/dev/null
}

for system in plain o3fs; do
    for what in $only; do
        case $what in
            tree)
                # Directories of 1,000 empty files.
                python3 - "$work/$system/tree" "$files" <<'PYTHON'
import os, sys
for number in range(int(sys.argv[2])):
    directory = f"{sys.argv[1]}/d{number // 1000}"
    if number % 1000 == 0:
        os.makedirs(directory)
    os.close(os.open(f"{directory}/f{number}", os.O_CREAT | os.O_WRONLY, 0o644))
PYTHON
                ;;
            file)
                for file in random sequential; do
                    fio --name=layout --filename="$work/$system/$file" --rw=write --bs=1M --size="${!file}M" --ioengine=psync \
                        --refill_buffers --buffer_compress_percentage=50 --end_fsync=1 --minimal >/dev/null
                done
                ;;
            grep) cp -a "$tree" "$work/$system/source" ;;
        esac
    done
done

for run in $(seq "$runs"); do
    printf 'run %s of %s\n' "$run" "$runs" >&2
    for what in $only; do
        for system in plain bindfs o3fs; do
            place=$work/$system
            case $what in
                tree)
                    drop_caches
                    timed "$system" ls-cold ls -lR "$place/tree"
                    timed "$system" ls-warm ls -lR "$place/tree"
                    drop_caches
                    timed "$system" find-cold find "$place/tree" -size +1
                    timed "$system" find-warm find "$place/tree" -size +1
                    ;;
                file)
                    drop_caches
                    timed "$system" random random_read "$place"
                    drop_caches
                    timed "$system" sequential dd if="$place/sequential" of=/dev/null bs=1M status=none
                    ;;
                grep)
                    drop_caches
                    timed "$system" grep-cold grep -r -c no_such_word_anywhere "$place/source" || true
                    timed "$system" grep-warm grep -r -c no_such_word_anywhere "$place/source" || true
                    ;;
            esac
        done
    done
done

seconds() { awk -v who="$1" -v name="$2" '$1 == who && $2 == name { print $3 }' "$work/results" | median; }
row() {
    grep -q " $2 " "$work/results" || return 0
    awk -v what="$1" -v a="$(seconds o3fs "$2")" -v b="$(seconds bindfs "$2")" -v c="$(seconds plain "$2")" \
        'BEGIN { printf "| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", what, a, b, c, b / a, c / a }'
}
machine
printf '\n%s\n\n' "Seconds, medians of $runs runs in turns; bindfs $(dpkg-query -W -f='${Version}' bindfs). Cold: the kernel's caches have been dropped."
printf '| work | O3FS | bindfs | plain disk | × bindfs | × plain |\n|---|--:|--:|--:|--:|--:|\n'
row "\`ls -lR\`, $files files, cold" ls-cold
row "\`ls -lR\`, warm" ls-warm
row "\`find -size\`, cold" find-cold
row "\`find -size\`, warm" find-warm
row "random reads of 4 KiB, file of $random MiB, cold" random
row "sequential read, $sequential MiB, cold" sequential
row "\`grep -r\` in $(du -sm "$tree" | cut -f1) MiB of source, cold" grep-cold
row "\`grep -r\`, warm" grep-warm
