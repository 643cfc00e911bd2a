#!/bin/bash
# fio with verification for as long as you like: sequential, random and mixed, buffered and direct, with
# data of four times disaggregated memory, verified again after an unmount, a kill -9 and a power loss.
#
#   tools/soak/fio.sh [--rounds 10] [--dm 256M] [--jobs 4] [--dir DIR]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

rounds=10 dm=256M jobs=4 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=$2 ;;
        --dm) dm=$2 ;;
        --jobs) jobs=$2 ;;
        --dir) parent=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
need_packages fio jq fuse3 coreutils util-linux
o3fs=${O3FS_BINARY:-$root/.build/release/o3fs}
[ -x "$o3fs" ] || die "build a release first: swift build -c release"

work=$(mktemp -d "$parent/o3fs-soak-XXXXXX")
mnt=$work/mnt store=$work/store daemon='' region=''
mkdir "$mnt"
trap 'umount -l "$mnt" 2>/dev/null || true; echo "left for inspection: $work" >&2' EXIT
bytes=$(numfmt --from=iec "$dm")
size=$((bytes * 4 / jobs))

up() {
    "$o3fs" mount "$store" "$mnt" --no-survive --dm-size "$bytes" --memtable-size $((bytes / 8))
    daemon=$("$o3fs" status "$mnt" --json | jq .daemon.pid)
    region=$(grep -o '/dev/shm/o3lsm-[0-9a-f]*' "/proc/$daemon/maps" | head -1)
}
crash() {
    kill -9 "$daemon"
    sleep 0.5
    umount -l "$mnt" 2>/dev/null || true
}
run() {
    (cd "$work" && fio --directory="$mnt" --size="$size" --numjobs="$jobs" --verify=crc32c --verify_fatal=1 \
        --verify_dump=0 --ioengine=psync --group_reporting --fallocate=none --minimal "$@" >"$work/fio.log" 2>&1) ||
        { cat "$work/fio.log" "$store/o3fs.log"; die "fio $* failed"; }
}
# shellcheck disable=SC2016  # fio replaces $jobnum
{
    sequential='--filename_format=seq.$jobnum'
    random='--filename_format=rand.$jobnum'
}
verify() {
    say "round $round: verifying after $1"
    run --name=verify "$sequential" --bs=1m --rw=read
    run --name=verify "$random" --bs=4k --rw=read
}

up
for round in $(seq "$rounds"); do
    for direct in 0 1; do
        for blocks in 4k-4k 64k-64k 1m-1m 4k-1m; do
            for workload in write randwrite randrw; do
                say "round $round: $workload, blocks of $blocks, direct=$direct"
                run --name=work --bsrange="$blocks" --direct="$direct" --rw="$workload" --verify_backlog=1024 \
                    --randseed="$round"
            done
        done
    done
    run --name=verify "$sequential" --bs=1m --rw=write --do_verify=0 --end_fsync=1
    run --name=verify "$random" --bs=4k --rw=randwrite --do_verify=0 --end_fsync=1
    "$o3fs" umount "$mnt"
    up
    verify "umount"
    crash
    up
    verify "kill -9"
    crash
    rm -f "$region"
    up
    verify "the loss of disaggregated memory"
    "$o3fs" umount "$mnt"
    "$o3fs" check "$store"
    up
done
"$o3fs" umount "$mnt"
trap - EXIT
rm -rf "$work"
say "$rounds rounds, no error"
