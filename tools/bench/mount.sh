#!/bin/bash
# The mount beside bindfs on the same disk, taken in turns in the same run: fio on one large file, and
# small files through a C program. Prints Markdown tables with medians.
#
#   tools/bench/mount.sh [--size 1G] [--seconds 10] [--files 20000] [--runs 3] [--dir DIR]
#
# DIR is where both keep their data; it must be on the disk that is to be measured. Needs /dev/fuse; as
# root the kernel's caches are dropped between phases, so that reads reach the file systems.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

size=1G seconds=10 files=20000 runs=3 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --size) size=$2 ;;
        --seconds) seconds=$2 ;;
        --files) files=$2 ;;
        --runs) runs=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done

need_packages fio jq bindfs gcc libc6-dev util-linux
use_release_binary
[ -c /dev/fuse ] || die "/dev/fuse is missing"

work=$(mktemp -d "$parent/o3fs-mount-bench-XXXXXX")
mounted=
cleanup() {
    [ -z "$mounted" ] || fusermount3 -uz "$mounted" 2>/dev/null || umount -l "$mounted" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
gcc -O2 -o "$work/smallfiles" "$root/tools/bench/smallfiles.c"

drop_caches() {
    sync
    [ "$(id -u)" != 0 ] || echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
}

mount_o3fs() { mkdir -p "$work/mnt"; "$o3fs" mount "$work/store" "$work/mnt" >&2; mounted=$work/mnt; }
umount_o3fs() { "$o3fs" umount "$work/mnt" >&2; mounted=; }
wipe_o3fs() { rm -rf "$work/store"; }
mount_bindfs() { mkdir -p "$work/mnt" "$work/plain"; bindfs --multithreaded "$work/plain" "$work/mnt"; mounted=$work/mnt; }
umount_bindfs() { fusermount3 -u "$work/mnt"; mounted=; }
wipe_bindfs() { rm -rf "$work/plain"; }

# fio_job NAME RW BLOCK_SIZE EXTRA...: prints "NAME MiB/s IOPS"; data is laid out by the job before.
fio_job() {
    job=$1 rw=$2 block=$3
    shift 3
    drop_caches
    fio --name=job --filename="$work/mnt/large" --rw="$rw" --bs="$block" --size="$size" --ioengine=psync \
        --numjobs=1 --refill_buffers --buffer_compress_percentage=50 --randseed=7 --output-format=json "$@" |
        jq -r --arg name "$job" '.jobs[0] | (if .write.total_ios > 0 then .write else .read end) | "\($name) \(.bw_bytes / 1048576) \(.iops)"'
}

# measure SYSTEM OUT: one run over everything.
measure() {
    "wipe_$1"
    "mount_$1"
    {
        # The time until the data is on disk counts, or only the page cache is measured.
        fio_job seq-write write 1M --end_fsync=1
        fio_job seq-read read 1M
        fio_job rand-read randread 4k --time_based --runtime="$seconds"
        fio_job rand-write randwrite 4k --time_based --runtime="$seconds" --end_fsync=1
        rm -f "$work/mnt/large"
        mkdir "$work/mnt/small"
        "$work/smallfiles" "$work/mnt/small" "$files" 4096 | awk '{ print $1, $2, $2 }'
    } >>"$2"
    "umount_$1"
    "wipe_$1"
    settle
}

column() { awk -v name="$2" -v field="$3" '$1 == name { print $field }' "$1" | median; }

: >"$work/o3fs"
: >"$work/bindfs"
for run in $(seq "$runs"); do
    printf 'run %s of %s\n' "$run" "$runs" >&2
    measure bindfs "$work/bindfs"
    measure o3fs "$work/o3fs"
done

machine
printf '\n%s\n\n' "Medians of $runs runs, in turns: fio (psync, one job, file of $size, buffered, fsync at the end of writes) and $files files of 4 KiB, beside bindfs $(dpkg-query -W -f='${Version}' bindfs) over the same disk."
printf '| work | O3FS | bindfs | unit | ratio |\n|---|--:|--:|---|--:|\n'
row() {
    a=$(column "$work/o3fs" "$2" "$3")
    b=$(column "$work/bindfs" "$2" "$3")
    awk -v what="$1" -v unit="$4" -v a="$a" -v b="$b" \
        'BEGIN { printf "| %s | %.0f | %.0f | %s | %s |\n", what, a, b, unit, (b > 0 ? sprintf("%.2f", a / b) : "-") }'
}
row "sequential write, 1 MiB" seq-write 2 MiB/s
row "sequential read, 1 MiB" seq-read 2 MiB/s
row "random read, 4 KiB" rand-read 3 ops/s
row "random write, 4 KiB" rand-write 3 ops/s
for phase in create stat read list delete; do row "small files: $phase" "$phase" 2 files/s; done
