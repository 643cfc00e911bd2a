#!/bin/bash
# Lets workers and daemons of a working mount die, or stop, at each state of a job, and looks for wrong bytes, and for
# slabs, slots, files, regions and processes that are left behind.
#
#   tools/soak/faults.sh [ROUNDS] [--kind worker|stop|daemon|all|every] [--seconds N] [--dir DIR]
#
# ROUNDS (200) of each kind, which go through the states of a job in turn, for at most N seconds (3600) altogether:
#   worker  kill -9 of a worker                   stop  SIGSTOP of a worker, for longer than its lease
#   daemon  kill -9 of the daemon, workers alive  all   kill -9 of the daemon and its workers, at one instant
# A job is posted, claimed, running (a flush, a compaction), its result is written, it is done and not collected, its
# tables are checked and not named, named and not committed, committed. Meanwhile fio writes and verifies, and a writer
# notes each file whose write has returned. Needs a build with fault points, which it makes in .build-faults.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

rounds=200 kinds="worker stop daemon all" limit=3600 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case $1 in
        --kind) [ "$2" = every ] || kinds=$2; shift ;;
        --seconds) limit=$2; shift ;;
        --dir) parent=$2; shift ;;
        [0-9]*) rounds=$1 ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
need_packages jq fio fuse3 util-linux
build=$root/.build-faults o3fs=$root/.build-faults/release/o3fs
[ -n "${O3FS_FAULTS_BUILT:-}" ] ||
    swift build --package-path "$root" -c release -Xswiftc -DFAULT_POINTS --scratch-path "$build" --product o3fs >&2

lease=500
executor_points="job-claimed mid-flush mid-compaction result-written job-done"
owner_points="job-posted before-collect before-rename before-commit after-commit"
work=$(mktemp -d "$parent/o3fs-faults-XXXXXX")
mnt=$work/mnt store=$work/store daemon='' guests='' writer='' fio='' round=0 kind='' point='' region=''
files=40 bytes=200000 died=0 missed=0 early=0
mkdir "$mnt"
head -c 3000000 /dev/urandom >"$work/blob"

cleanup() {
    for pid in $guests $daemon $writer $fio; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -9 "$pid" 2>/dev/null || true
    done
    umount -l "$mnt" 2>/dev/null || true
    [ -z "$region" ] || rm -f "$region"
    echo "left for inspection: $work" >&2
}
trap cleanup EXIT
fail() {
    tail -5 "$store/o3fs.log" "$work"/*.log 2>/dev/null || true
    die "$kind at $point, round $round: $*"
}

mount_options="--dm-size 64M --memtable-size 2M --shards 4 --workers 0 --worker-lease $lease --commit-interval 200"
wait_for_mount() {
    for _ in $(seq 300); do
        # Nobody asks before it is mounted: the question itself would take the store.
        if mountpoint -q "$mnt" &&
            daemon=$("$o3fs" status "$mnt" --json 2>/dev/null | jq -e '.daemon.pid // empty' 2>/dev/null); then
            region=$(grep -o '/dev/shm/o3lsm-[0-9a-f]*' "/proc/$daemon/maps" 2>/dev/null | head -1) || true
            return 0
        fi
        # A child that has ended is a zombie until it is waited for.
        [ -z "${1:-}" ] || case $(state_of "$1") in gone | Z) return 1 ;; esac
        sleep 0.05
    done
    return 1
}
# up [FAULT]: false when the daemon has died of the fault before it was there.
up() {
    daemon=''
    # shellcheck disable=SC2086  # lists of words
    env ${1:+O3LSM_FAULT=$1} timeout 60 "$o3fs" mount "$store" "$mnt" --no-survive $mount_options >"$work/mount.log" 2>&1 ||
        { [ -n "${1:-}" ] || { cat "$work/mount.log"; fail "cannot mount"; }; return 1; }
    wait_for_mount || { [ -n "${1:-}" ] || fail "does not come up"; return 1; }
}
down_dead() { umount -l "$mnt" 2>/dev/null || true; flock -w 20 "$store/LOCK" true || fail "somebody keeps the store"; }
start_guest() {
    # shellcheck disable=SC2086
    env ${1:+O3LSM_FAULT=$1} "$o3fs" worker "$store" 2>>"$work/guest.log" &
    guest=$!
    guests="$guests $guest"
    disown "$guest"
}
end_guests() {
    for pid in $guests; do kill -CONT "$pid" 2>/dev/null || true; kill -9 "$pid" 2>/dev/null || true; done
    guests=''
}
content() { tail -c +$(($1 * 997 % 2000000 + 1)) "$work/blob" | head -c $bytes; }
# Writes file after file, and says of each that it is there once the write has returned.
write_files() {
    step=$(cat "$work/done")
    while :; do
        step=$((step + 1))
        content "$step" >"$mnt/file$((step % files))" || return 0
        echo "$step" >"$work/done.new" && mv "$work/done.new" "$work/done"
    done
}
fio_job() {
    (cd "$work" && fio --name=faults --filename="$mnt/fio" --size=6m --bs=16k --ioengine=psync --fallocate=none \
        --verify=crc32c --verify_fatal=1 --verify_dump=0 --minimal "$@" >"$work/fio.log" 2>&1)
}
# Writes the same blocks again and again and verifies them; notes an error while the daemon lives.
fio_loop() {
    while :; do
        fio_job --rw=write || { [ -e "$work/dying" ] || kill -0 "$1" 2>/dev/null && touch "$work/fio.failed"; return 0; }
    done
}
start_load() {
    rm -f "$work/fio.failed" "$work/dying"
    write_files 2>/dev/null &
    writer=$!
    fio_loop "$daemon" 2>/dev/null &
    fio=$!
}
end_load() {
    touch "$work/dying"
    kill "$writer" "$fio" 2>/dev/null || true
    wait "$writer" "$fio" 2>/dev/null || true
    pkill -P "$fio" 2>/dev/null || true
    writer='' fio=''
}
verify() {
    last=$(cat "$work/done")
    for step in $(seq $((last > files - 2 ? last - files + 2 : 1)) "$last"); do
        content "$step" | cmp -s - "$mnt/file$((step % files))" || fail "file$((step % files)) is not what step $step wrote"
    done
    fio_job --rw=read || { cat "$work/fio.log"; fail "fio found wrong bytes"; }
}
hits() {
    case $point in
        mid-flush) echo $((RANDOM % 60 + 1)) ;;
        mid-compaction) echo $((RANDOM % 12 + 1)) ;;
        job-claimed | result-written | job-done) echo $((RANDOM % 4 + 1)) ;;
        # The owner comes by a few of these while it opens the store.
        *) echo $((RANDOM % 12 + 3)) ;;
    esac
}
state_of() { cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null || echo gone; }
# wait_for PID STATE...: until the process is in one of them; false after eight seconds.
wait_for() {
    pid=$1
    shift
    for _ in $(seq 160); do
        now=$(state_of "$pid")
        for wanted in "$@"; do [ "$now" != "$wanted" ] || return 0; done
        sleep 0.05
    done
    return 1
}
count() { if "$@"; then died=$((died + 1)); else missed=$((missed + 1)); fi; }
in_turn() { shift "$((round % ($# - 1) + 1))"; echo "$1"; }

round_worker() {
    point=$(in_turn x $executor_points)
    start_guest "$point:$(hits)"
    start_load
    count wait_for "$guest" gone Z
    sleep 0.2
    end_load
    end_guests
    [ ! -e "$work/fio.failed" ] || { cat "$work/fio.log"; fail "fio found an error"; }
    verify
}
round_stop() {
    point=$(in_turn x $executor_points)
    start_guest "$point:$(hits):stop"
    start_load
    count wait_for "$guest" T
    sleep "0.$((RANDOM % 5 + 5))"
    # Late now: its lease has run out, and its slabs are somebody else's.
    kill -CONT "$guest" 2>/dev/null || true
    sleep 0.3
    end_load
    [ "$(state_of "$guest")" != gone ] || fail "the worker that was stopped has died: $(tail -3 "$work/guest.log")"
    end_guests
    [ ! -e "$work/fio.failed" ] || { cat "$work/fio.log"; fail "fio found an error"; }
    verify
}
round_daemon() {
    point=$(in_turn x $owner_points $executor_points)
    "$o3fs" umount "$mnt" || fail "cannot unmount"
    flock -w 20 "$store/LOCK" true || fail "somebody keeps the store"
    case " $owner_points " in
        *" $point "*)
            start_guest
            if up "$point:$(hits)"; then
                start_load
                count wait_for "$daemon" gone Z
                [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
                end_load
            else
                early=$((early + 1))
            fi
            ;;
        *)
            up
            start_guest "$point:$(hits):stop"
            start_load
            count wait_for "$guest" T
            kill -9 "$daemon"
            end_load
            ;;
    esac
    down_dead
    up
    for pid in $guests; do kill -CONT "$pid" 2>/dev/null || true; done
    verify
    end_guests
}
round_all() {
    point=$(in_turn x $owner_points $executor_points)
    "$o3fs" umount "$mnt" || fail "cannot unmount"
    flock -w 20 "$store/LOCK" true || fail "somebody keeps the store"
    fault="$point:$(hits):group"
    of_daemon='' of_worker=''
    case " $owner_points " in *" $point "*) of_daemon=$fault ;; *) of_worker=$fault ;; esac
    # One process group: the fault kills it as a whole.
    # shellcheck disable=SC2016,SC2086
    setsid bash -c 'o3fs=$1 store=$2 mnt=$3 of_daemon=$4 of_worker=$5; shift 5
        env ${of_daemon:+O3LSM_FAULT=$of_daemon} "$o3fs" mount -f --no-survive "$store" "$mnt" "$@" &
        env ${of_worker:+O3LSM_FAULT=$of_worker} "$o3fs" worker "$store" & "$o3fs" worker "$store" & wait' \
        all "$o3fs" "$store" "$mnt" "$of_daemon" "$of_worker" $mount_options >"$work/group.log" 2>&1 &
    leader=$!
    daemon=''
    if wait_for_mount "$leader"; then
        start_load
        count wait_for "$daemon" gone Z
        end_load
    else
        case $(state_of "$leader") in gone | Z) early=$((early + 1)) ;; *) cat "$work/group.log"; fail "does not come up" ;; esac
    fi
    kill -9 -- "-$leader" 2>/dev/null || true
    wait "$leader" 2>/dev/null || true
    for _ in $(seq 40); do [ "$(pgrep -fc "o3fs (mount|worker).*$store" || true)" != 0 ] || break; sleep 0.05; done
    down_dead
    [ "$(pgrep -fc "o3fs (mount|worker).*$store" || true)" = 0 ] || fail "processes are left"
    up
    verify
}
settle() {
    verify
    "$o3fs" check --memory "$store" >"$work/check.log" 2>&1 || { cat "$work/check.log"; fail "something leaks"; }
    timeout 60 "$o3fs" umount "$mnt" || fail "cannot unmount"
    daemon=''
    [ -z "$region" ] || [ ! -e "$region" ] || fail "the region is still there"
    [ "$(pgrep -fc "o3fs (mount|worker).*$store" || true)" = 0 ] || fail "processes are left"
    timeout 120 "$o3fs" check "$store" >"$work/check.log" 2>&1 || { cat "$work/check.log"; fail "check found problems"; }
}

end=$((SECONDS + limit))
for kind in $kinds; do
    echo 0 >"$work/done"
    died=0 missed=0 early=0 round=0
    up
    fio_job --rw=write || fail "fio cannot lay out its file"
    for round in $(seq "$rounds"); do
        [ $SECONDS -lt $end ] || { round=$((round - 1)); break; }
        "round_$kind"
        if [ $((round % 10)) = 0 ]; then
            settle
            up
            # From tables, not from the caches of the old mount.
            verify
            echo "$kind: round $round of $rounds: fine ($died at their point, $early more while mounting, $missed not reached)"
        fi
    done
    settle
    echo "$kind: $round rounds survived, $died at their point, $early more while mounting, $missed did not reach it"
    rm -rf "$store"
done
trap - EXIT
rm -rf "$work"
