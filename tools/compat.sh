#!/bin/bash
# Runs real programs, each with checks of its own, in fresh mounts, and prints what held as a table.
#
#   tools/compat.sh [--quick] [--only NAME]... [--json] [--list] [--dir DIR] [--keep] [--limit SECONDS]
#
# Each program (tools/compat/programs.sh) gets a new store and mount; when it has ended, the store is unmounted and
# goes through `o3fs check`, and a program counts as ok only if that finds nothing. A program that is not installed, or
# that the machine does not allow, is "skipped" and says why. Output of those that fail is shown, and kept with --keep.
# --quick takes the ones that a test can afford (less than a minute altogether). --limit ends a program that hangs
# (600 seconds). Exit status: 0 when nothing failed. Root sees the most: PostgreSQL, devices, ACLs of others, overlayfs.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tools/lib.sh"
programs=$root/tools/compat/programs.sh
quick="git sqlite tar rsync rename mapping"
wanted='' json=false list=false keep=false parent=${TMPDIR:-/tmp} limit=600
while [ $# -gt 0 ]; do
    case $1 in
        --quick) wanted="$wanted $quick" ;;
        --only) wanted="$wanted ${2:?--only needs a name}"; shift ;;
        --json) json=true ;;
        --list) list=true ;;
        --keep) keep=true ;;
        --dir) parent=${2:?--dir needs a directory}; shift ;;
        --limit) limit=${2:?--limit needs seconds}; shift ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
# Lines "NAME<tab>WHAT IS CHECKED", in the order in which they run.
catalogue=$(bash "$programs" --list)
if $list; then
    echo "$catalogue" | column -t -s "$(printf '\t')"
    exit
fi
for name in $wanted; do
    echo "$catalogue" | cut -f1 | grep -qx "$name" || die "there is no program $name; --list shows them"
done
o3fs=${O3FS_BINARY:-$root/.build/release/o3fs}
[ -x "$o3fs" ] || die "$o3fs is missing: swift build -c release --product o3fs"
[ -c /dev/fuse ] || die "/dev/fuse is missing"

work=$(mktemp -d "$parent/o3fs-compat-XXXXXX")
# PostgreSQL's user walks through it.
chmod 755 "$work"
mnt=$work/mnt
cleanup() {
    if mountpoint -q "$mnt"; then "$o3fs" umount "$mnt" >/dev/null 2>&1 || umount -l "$mnt" || true; fi
    if $keep; then echo "kept: $work" >&2; else rm -rf "$work"; fi
}
trap cleanup EXIT
options=''
# Other users than the one who mounts, and the special files that are copied about, need root.
[ "$(id -u)" != 0 ] || options="-o allow_other,suid,dev"

# run NAME: result and reason in $result and $reason; the program's output in $log.
run() {
    log=$work/$1.log store=$work/store result=ok reason=''
    rm -rf "$store" "$work/scratch"
    mkdir -p "$mnt" "$work/scratch"
    chmod 755 "$work/scratch"
    # shellcheck disable=SC2086  # a list of words
    if ! "$o3fs" mount "$store" "$mnt" --dm-size 256M $options >"$log" 2>&1; then
        result=failed reason="cannot mount"
        return
    fi
    chmod 755 "$mnt"
    status=0
    SCRATCH=$work/scratch timeout -k 10 "$limit" bash "$programs" "$1" "$mnt" >>"$log" 2>&1 </dev/null || status=$?
    case $status in
        0) ;;
        77) result=skipped reason=$(tail -n 1 "$log") ;;
        124 | 137) result=failed reason="not done after $limit s" ;;
        *) result=failed reason="status $status" ;;
    esac
    # What a program leaves running may need a moment to let go of its files.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        ! mountpoint -q "$mnt" || "$o3fs" umount "$mnt" >>"$log" 2>&1 || sleep 1
    done
    if mountpoint -q "$mnt"; then
        result=failed reason="${reason:+$reason; }cannot unmount"
        umount -l "$mnt" || true
        flock -w 20 "$store/LOCK" true || true
    elif ! "$o3fs" check "$store" >>"$log" 2>&1; then
        result=failed reason="${reason:+$reason; }o3fs check finds problems"
    fi
}

rows=$work/rows failed=0
: >"$rows"
count=0 all=$(echo "$catalogue" | wc -l)
[ -z "$wanted" ] || all=$(echo "$wanted" | wc -w)
while IFS=$(printf '\t') read -r name checks <&3; do
    [ -z "$wanted" ] || case " $wanted " in *" $name "*) ;; *) continue ;; esac
    count=$((count + 1))
    printf '[%s/%s] %s ... ' "$count" "$all" "$name" >&2
    began=$(date +%s%N)
    run "$name"
    seconds=$(awk -v ns=$(($(date +%s%N) - began)) 'BEGIN { printf "%.1f", ns / 1e9 }')
    echo "$result, $seconds s${reason:+ ($reason)}" >&2
    if [ "$result" = failed ]; then
        failed=$((failed + 1))
        tail -n 30 "$log" | sed 's/^/    /' >&2
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$checks" "$result" "$seconds" "$reason" >>"$rows"
done 3<<<"$catalogue"

if $json; then
    jq -Rn '[inputs | split("\t") | {program: .[0], checked: .[1], result: .[2], seconds: (.[3] | tonumber), reason: .[4]}]' "$rows"
else
    echo "| program | what is checked | result | seconds |"
    echo "|---|---|---|---|"
    awk -F '\t' '{ printf "| %s | %s | %s%s | %s |\n", $1, $2, $3, ($5 == "" ? "" : ": " $5), $4 }' "$rows"
fi
[ "$failed" = 0 ]
