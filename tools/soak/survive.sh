#!/bin/bash
# Kills the daemon of a supervised mount while fio verifies, git and sqlite3 work and a checker does what must be
# done exactly once: no program may see an error, and no byte may be wrong.
#
#   tools/soak/survive.sh [--rounds 20] [--dm 256M] [--memtable 16M] [--fill 0] [--workers] [--upgrade] [--sync]
#                         [--gap 0.3] [--dir DIR] [--mount "OPTIONS"]
#
# --fill: bytes to write first, to be held in DM. --workers: kill workers as well. --upgrade: let another daemon take over
# (`o3fs upgrade`) instead of a kill. --sync: time an fsync after each kill as well. --gap: mean pause between kills.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

rounds=20 dm=256M memtable=16M fill=0 parent=${TMPDIR:-/tmp} gap=0.3 workers='' upgrade='' sync='' extra=''
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=$2; shift ;;
        --dm) dm=$2; shift ;;
        --memtable) memtable=$2; shift ;;
        --fill) fill=$2; shift ;;
        --gap) gap=$2; shift ;;
        --dir) parent=$2; shift ;;
        --mount) extra=$2; shift ;;
        --workers) workers=--workers ;;
        --upgrade) upgrade=--upgrade ;;
        --sync) sync=--sync ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
need_packages fio fuse3 git jq python3 sqlite3 util-linux
o3fs=${O3FS_BINARY:-$root/.build/release/o3fs}
[ -x "$o3fs" ] || die "build a release first: swift build -c release"

work=$(mktemp -d "$parent/o3fs-survive-XXXXXX")
mnt=$work/mnt store=$work/store
mkdir "$mnt"
pids=
# shellcheck disable=SC2086  # lists of words
trap 'kill $pids 2>/dev/null || true; timeout 60 "$o3fs" umount -f "$mnt" || true; echo "left for inspection: $work" >&2' EXIT
# shellcheck disable=SC2086
"$o3fs" mount "$store" "$mnt" --survive --max-restarts 1000000 --dm-size "$dm" --memtable-size "$memtable" $extra
if [ "$fill" != 0 ]; then
    head -c "$(numfmt --from=iec "$fill")" /dev/urandom >"$mnt/fill"
fi

touch "$work/running"
# Each goes on until the kills are over; the first failure is noted.
fio_loop() {
    while [ -e "$work/running" ]; do
        for direct in 0 1; do
            (cd "$work" && fio --name="mixed$direct" --directory="$mnt" --size=16m --numjobs=4 --verify=crc32c \
                --verify_fatal=1 --verify_dump=0 --verify_backlog=256 --ioengine=psync --rw=randrw --bsrange=4k-128k \
                --direct=$direct --fallocate=none --group_reporting --minimal >"$work/fio.log" 2>&1) ||
                { echo "fio, direct $direct" >>"$work/failed"; cp "$work/fio.log" "$work/fio.failed"; return; }
        done
    done
}
git_loop() {
    n=0
    git init -q "$mnt/repository" && cd "$mnt/repository" && git config user.email a@b && git config user.name a
    while [ -e "$work/running" ]; do
        n=$((n + 1))
        { seq $n $((n + 500)) >"file$((n % 20))" && git add -A && git commit -qm "$n" && git fsck --strict --no-dangling; } \
            >"$work/git.log" 2>&1 || { echo "git, commit $n" >>"$work/failed"; return; }
    done
}
sqlite_loop() {
    n=0
    sqlite3 "$mnt/db" 'create table t(n integer primary key, text)'
    while [ -e "$work/running" ]; do
        n=$((n + 1))
        sqlite3 "$mnt/db" "insert into t values($n, hex(randomblob(500)))" >"$work/sqlite.log" 2>&1 ||
            { echo "sqlite, row $n" >>"$work/failed"; return; }
        if [ $((n % 100)) = 0 ]; then
            [ "$(sqlite3 "$mnt/db" 'pragma integrity_check; select count(*) from t')" = "ok
$n" ] || { echo "sqlite, check after row $n" >>"$work/failed"; return; }
        fi
    done
}
fio_loop & pids="$pids $!"
git_loop & pids="$pids $!"
sqlite_loop & pids="$pids $!"

result=0
# shellcheck disable=SC2086
python3 "$root/tools/soak/survive.py" "$o3fs" "$store" "$mnt" "$rounds" $workers $upgrade $sync --gap "$gap" || result=1
rm "$work/running"
# shellcheck disable=SC2086
wait $pids
pids=
[ ! -e "$work/failed" ] || { cat "$work/failed" "$work"/*.log >&2; result=1; }
"$o3fs" umount "$mnt"
"$o3fs" check "$store" 2>/dev/null || result=1
[ $result = 0 ] || die "something did not survive"
trap - EXIT
rm -rf "$work"
