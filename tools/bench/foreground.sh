#!/bin/bash
# What the daemon spends on flushes and compactions while a worker is attached: 60 seconds of random writes by fio, then
# the daemon's processor time by thread. Exits with 1 unless flushes and compactions took less than 2 % of it and
# workers wrote every table.
#
#   tools/bench/foreground.sh [--dir DIR] [--seconds N]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
parent=${TMPDIR:-/tmp} seconds=60
while [ $# -gt 0 ]; do
    case $1 in
    --dir) parent=$2 ;;
    --seconds) seconds=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
need_packages jq fuse3 fio
use_release_binary
work=$(mktemp -d "$parent/o3fs-foreground-XXXXXX")
trap '"$o3fs" umount "$work/mnt" >/dev/null 2>&1 || umount -l "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/mnt"
"$o3fs" mount "$work/store" "$work/mnt" --workers 1 >&2
until [ "$("$o3fs" status "$work/mnt" --json | jq '.workers | length')" = 1 ]; do sleep 0.1; done
sleep 0.5
fio --name=foreground --directory="$work/mnt" --rw=randwrite --bs=16k --size=256m --numjobs=1 --time_based \
    --runtime="$seconds" --output-format=json >"$work/fio.json"
daemon=$("$o3fs" status "$work/mnt" --json | jq .daemon.pid)
ticks=$(getconf CLK_TCK)
# Name and processor ticks of each thread; names may hold anything but end before the last parenthesis.
for task in /proc/"$daemon"/task/*/stat; do
    sed -E 's/^[0-9]+ \((.*)\) /\1\t/' "$task" | awk -F'\t' '{ split($2, f, " "); print $1 "\t" f[12] + f[13] }'
done >"$work/threads"
# With threads that have ended.
total=$(sed -E 's/^.*\) //' "/proc/$daemon/stat" | awk '{ print $12 + $13 }')
"$o3fs" stats "$work/mnt" --json >"$work/stats"
printf 'fio: %s MB/s\n' "$(jq '.jobs[0].write.bw_bytes / 1e6 | round' "$work/fio.json")"
jq -r '.executors[] | "\(.role) \(.pid): \(.flush.jobs) flushes, \(.flush.bytes_written) bytes; \(.compaction.jobs) compactions, \(.compaction.bytes_written) bytes"' "$work/stats"
written=$(jq '[.executors[] | select(.role == "daemon") | .flush.jobs + .compaction.jobs] | add // 0' "$work/stats")
flushed=$(jq '.flush.offloaded_jobs' "$work/stats")
awk -F'\t' -v total="$total" -v ticks="$ticks" -v written="$written" -v flushed="$flushed" '
    function group(name) {
        if (name ~ /^o3-(flush|compact)/) return "flush and compaction"
        if (name ~ /^o3-control/) return "control plane"
        if (name ~ /^o3-log/) return "log"
        if (name ~ /^o3-/) return "other background"
        return "foreground"
    }
    { time[group($1)] += $2; live += $2 }
    END {
        time["threads that have ended"] = total - live
        for (name in time) printf "%-24s %8.2f s %6.2f %%\n", name, time[name] / ticks, 100 * time[name] / total
        share = (time["flush and compaction"] + time["threads that have ended"]) / total
        printf "flush and compaction, threads that have ended included: %.2f %%; jobs of the daemon: %d\n", 100 * share, written
        exit !(share < 0.02 && written == 0 && flushed > 0)
    }' "$work/threads"
