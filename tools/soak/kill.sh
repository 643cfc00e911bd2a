#!/bin/bash
# Kills the daemon of a working mount again and again, at random moments, and looks whether everything
# that had been acknowledged is there, and nothing half.
#
#   tools/soak/kill.sh [--rounds 200] [--dir DIR] [--power]
#
# --power also throws disaggregated memory away at every other kill, as a reboot does; then only what was
# synced must be there.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

rounds=200 parent=${TMPDIR:-/tmp} power=
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=$2; shift ;;
        --dir) parent=$2; shift ;;
        --power) power=1 ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
need_packages jq fuse3 util-linux
o3fs=${O3FS_BINARY:-$root/.build/release/o3fs}
[ -x "$o3fs" ] || die "build a release first: swift build -c release"

work=$(mktemp -d "$parent/o3fs-soak-XXXXXX")
mnt=$work/mnt store=$work/store daemon='' region='' round=0
mkdir "$mnt"
cleanup() {
    [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
    umount -l "$mnt" 2>/dev/null || true
    echo "left for inspection: $work" >&2
}
trap cleanup EXIT

up() {
    "$o3fs" mount "$store" "$mnt" --no-survive --dm-size 64M --memtable-size 4M >"$work/mount.log" 2>&1 ||
        { cat "$work/mount.log"; die "round $round: cannot mount"; }
    daemon=$("$o3fs" status "$mnt" --json | jq .daemon.pid)
    region=$(grep -o '/dev/shm/o3lsm-[0-9a-f]*' "/proc/$daemon/maps" | head -1)
}

# writer NUMBER STEP: creates, renames and replaces files, and logs each step once it has returned.
writer() {
    cd "$mnt/w$1" || return 0
    step=$2
    while :; do
        step=$((step + 1))
        file=file$((step % 50))
        { head -c $((RANDOM % 20000)) /dev/zero >new && echo "$step" >>new && mv new "$file"; } || return 0
        if [ $((step % 20)) = 0 ]; then
            sync "$file" || return 0
            echo "$step" >"$work/synced.$1"
        fi
        echo "$step" >"$work/done.$1"
    done
}

up
for w in 1 2 3; do
    mkdir "$mnt/w$w"
    echo 0 >"$work/done.$w"
    echo 0 >"$work/synced.$w"
    sync "$mnt/w$w"
done
for round in $(seq "$rounds"); do
    pids=
    for w in 1 2 3; do
        (writer "$w" "$(cat "$work/done.$w")") 2>/dev/null &
        pids="$pids $!"
    done
    sleep "0.$((RANDOM % 900 + 100))"
    kill -9 "$daemon"
    # shellcheck disable=SC2086  # a list of words
    wait $pids 2>/dev/null || true
    umount -l "$mnt" 2>/dev/null || true
    marker=done
    if [ -n "$power" ] && [ $((round % 2)) = 0 ]; then
        rm -f "$region"
        marker=synced
    fi
    up
    for w in 1 2 3; do
        step=$(cat "$work/$marker.$w")
        # The newest step that the files know must be at least the one that was acknowledged.
        newest=0
        for file in "$mnt/w$w"/file*; do
            [ -e "$file" ] || continue
            last=$(tail -n 1 "$file" | tr -d '\0')
            [ -n "$last" ] || die "round $round: $file is half there"
            [ "$last" -le "$newest" ] || newest=$last
        done
        [ "$newest" -ge "$step" ] || die "round $round: writer $w had $marker step $step, the newest there is $newest"
        echo "$newest" >"$work/done.$w"
        echo "$newest" >"$work/synced.$w"
        # What is there must be on disk before the next round counts on it.
        sync "$mnt/w$w"
    done
    if [ $((round % 10)) = 0 ]; then
        "$o3fs" umount "$mnt"
        "$o3fs" check "$store" >"$work/check.log" 2>&1 ||
            { cat "$work/check.log"; die "round $round: check found problems"; }
        up
        echo "round $round of $rounds: fine"
    fi
done
"$o3fs" umount "$mnt"
daemon=
"$o3fs" check "$store"
trap - EXIT
rm -rf "$work"
echo "$rounds kills survived"
