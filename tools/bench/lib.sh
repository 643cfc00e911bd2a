# Shell functions of the benchmark scripts. Source it from a script in tools/bench.

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

# use_release_binary: builds it, and sets o3fs to its path (or to O3FS_BINARY when that is set).
use_release_binary() {
    if [ -n "${O3FS_BINARY:-}" ]; then
        o3fs=$O3FS_BINARY
        return
    fi
    need_swift
    (cd "$root" && swift build -c release --product o3fs >&2)
    o3fs=$(cd "$root" && swift build -c release --show-bin-path)/o3fs
}

# median: of the numbers on standard input, one a line.
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; else print 0 }'; }

# machine: what the numbers were measured on, as Markdown.
machine() {
    cpu=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
    memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    kernel=$(uname -sr)
    printf '%s, %s processors (%s), %s RAM, %s on %s.\n' \
        "$kernel" "$(nproc)" "${cpu:-unknown}" "$memory" \
        "$(findmnt -no FSTYPE -T "$work" 2>/dev/null || echo '?')" "$(findmnt -no SOURCE -T "$work" 2>/dev/null || echo '?')"
}

# settle: everything written by the last step is on disk before the next begins.
settle() { sync; }
