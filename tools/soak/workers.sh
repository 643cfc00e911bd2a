#!/bin/bash
# Kills and stops workers and daemons of a working mount again and again, at random moments, and compares every
# file whose writing had returned with what it must hold.
#
#   tools/soak/workers.sh [ROUNDS] [--mode worker|stop|daemon|all|every] [--seconds N] [--dir DIR]
#
# ROUNDS (200) of each mode, for at most N seconds (3600) altogether:
#   worker  kill -9 of a worker          stop  SIGSTOP of a worker, for up to three leases
#   daemon  kill -9 of the daemon        all   workers stopped and killed and the daemon killed, together
# One worker runs beside those of the mount, and lives on when the daemon dies. Every tenth round the store is
# unmounted and checked: no leaked table, region or process may be left.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

rounds=200 modes="worker stop daemon all" limit=3600 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --mode) [ "$2" = every ] || modes=$2; shift ;;
        --seconds) limit=$2; shift ;;
        --dir) parent=$2; shift ;;
        [0-9]*) rounds=$1 ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
need_packages jq fuse3 util-linux
o3fs=${O3FS_BINARY:-$root/.build/release/o3fs}
[ -x "$o3fs" ] || die "build a release first: swift build -c release"

work=$(mktemp -d "$parent/o3fs-soak-XXXXXX")
mnt=$work/mnt store=$work/store daemon='' guest='' region='' round=0 mode=''
files=100 bytes=300000
mkdir "$mnt"
head -c 3000000 /dev/urandom >"$work/blob"
cleanup() {
    # A killed daemon lets go of its store a moment after kill(1) has returned; anybody else never may hold it.
    [ ! -e "$store/LOCK" ] || flock -w 10 "$store/LOCK" true || fail "somebody keeps the store's lock"
    [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
    [ -z "$guest" ] || kill -9 "$guest" 2>/dev/null || true
    umount -l "$mnt" 2>/dev/null || true
    [ -z "$region" ] || rm -f "$region"
    echo "left for inspection: $work" >&2
}
trap cleanup EXIT
fail() { "$o3fs" stats "$mnt" 2>/dev/null | head -30 || true; tail -5 "$store/o3fs.log" || true; die "$mode, round $round: $*"; }

up() {
    timeout 60 "$o3fs" mount "$store" "$mnt" --no-survive --dm-size 64M --memtable-size 4M --workers 2 --worker-lease 500 \
        >"$work/mount.log" 2>&1 || { cat "$work/mount.log"; fail "cannot mount"; }
    daemon=$("$o3fs" status "$mnt" --json | jq .daemon.pid)
    region=$(grep -o '/dev/shm/o3lsm-[0-9a-f]*' "/proc/$daemon/maps" | head -1)
}
start_guest() {
    "$o3fs" worker "$store" 2>>"$work/guest.log" &
    guest=$!
    disown "$guest"
}
workers() { "$o3fs" status "$mnt" --json | jq '.workers[].pid'; }
content() { tail -c +$(($1 * 997 % 2000000 + 1)) "$work/blob" | head -c $bytes; }
# Writes file after file, and says of each that it is there once the write has returned.
writer() {
    step=$(cat "$work/done")
    while :; do
        step=$((step + 1))
        content "$step" >"$mnt/file$((step % files))" || return 0
        echo "$step" >"$work/done.new" && mv "$work/done.new" "$work/done"
    done
}
verify() {
    last=$(cat "$work/done")
    for step in $(seq $((last > files - 2 ? last - files + 2 : 1)) "$last"); do
        content "$step" | cmp -s - "$mnt/file$((step % files))" || fail "file$((step % files)) is not what step $step wrote"
    done
}
stop_for_a_while() {
    kill -STOP "$1" 2>/dev/null || return 0
    sleep "$((RANDOM % 2)).$((RANDOM % 9))"
    kill -CONT "$1" 2>/dev/null || true
}
strike() {
    case $mode in
        worker) kill -9 "$(workers | shuf -n 1)" 2>/dev/null || true ;;
        stop) stop_for_a_while "$(workers | shuf -n 1)" ;;
        daemon) kill -9 "$daemon" ;;
        all)
            for pid in $(workers); do
                if [ $((RANDOM % 2)) = 0 ]; then kill -9 "$pid" 2>/dev/null || true; else
                    stop_for_a_while "$pid" &
                fi
            done
            sleep "0.$((RANDOM % 4))"
            kill -9 "$daemon"
            ;;
    esac
}
settle() {
    timeout 60 "$o3fs" umount "$mnt" || fail "cannot unmount"
    daemon=''
    [ "$(pgrep -fc "o3fs worker $store --supervised" || true)" = 0 ] || fail "workers outlive their mount"
    [ ! -e "$region" ] || fail "the region is still there"
    timeout 120 "$o3fs" check "$store" >"$work/check.log" 2>&1 || { cat "$work/check.log"; fail "check found problems"; }
}

end=$((SECONDS + limit))
for mode in $modes; do
    round=0
    echo 0 >"$work/done"
    up
    for round in $(seq "$rounds"); do
        [ $SECONDS -lt $end ] || { round=$((round - 1)); break; }
        kill -0 "$guest" 2>/dev/null || start_guest
        writer 2>/dev/null &
        pid=$!
        sleep "0.$((RANDOM % 700 + 200))"
        strike
        kill "$pid" 2>/dev/null || true
        wait 2>/dev/null || true
        if [ "$mode" = daemon ] || [ "$mode" = all ]; then
            umount -l "$mnt" 2>/dev/null || true
            up
        fi
        verify
        if [ $((round % 10)) = 0 ]; then
            settle
            echo "$mode: round $round of $rounds: fine"
            up
            # From tables, not from the caches of the old mount.
            verify
        fi
    done
    settle
    echo "$mode: $round rounds survived"
    rm -rf "$store"
done
kill "$guest" 2>/dev/null || true
trap - EXIT
rm -rf "$work"
