#!/bin/bash
# Reads bytes that are nearly right for as long as it is told: tables, logs, manifests, identities, descriptors of
# jobs, answers of workers, regions of disaggregated memory, export streams, rows, FUSE requests, command lines (all
# suites whose names end in FuzzTests). A finding names the seed and the
# execution that repeat it.
#
#   tools/soak/fuzz.sh [--seconds 60] [--seed N] [--sanitize | --coverage]
#
# --seconds is the time for each target; --sanitize builds with AddressSanitizer, which sees reads beyond the end that
# happen not to crash; --coverage says how many lines of the files that read untrusted bytes were executed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/lib.sh"

seconds=60 seed=$((RANDOM * 32768 + RANDOM)) options=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2; shift ;;
        --seed) seed=$2; shift ;;
        --sanitize) options=(--sanitize=address --scratch-path "$root/.build/sanitized") ;;
        --coverage) options=(--enable-code-coverage --scratch-path "$root/.build/coverage") ;;
        *) die "unknown argument $1" ;;
    esac
    shift
done
cd "$root"
# Memory that runs away ends as a failed allocation, not as a machine that swaps. A sanitizer reserves terabytes.
[ ${#options[@]} -gt 0 ] || ulimit -v 16777216
export LSAN_OPTIONS=suppressions=$root/tools/soak/lsan.supp:print_suppressions=0
O3LSM_FUZZ_SECONDS=$seconds O3LSM_FUZZ_SEED=$seed swift test "${options[@]}" --filter FuzzTests 2>&1 |
    grep -E 'FuzzTests:|✘|✔ Test run|rror:|Sanitizer'

[[ ${options[*]} == *coverage* ]] || exit 0
need_packages jq
readers='SSTable/(Block[A-Z]|Block.swift|Table(Format|Opener|Properties|Verification)|Index|Restart|BloomF)'
readers+='|WriteAheadLog/Log(Reader|Record|Format)|Version/(VersionEdit|ManifestTable|CurrentFile|StoreIdentity|SmallFile)'
readers+='|Descriptor.swift|Result.swift|Delegation/Read(Messages|Server)|DisaggregatedMemory/(Region|MemtableD)'
readers+='|Memtable/Shard(Recovery|.swift)|Backup/(BackupReader|BackupFormat)|O3FileSystem/Rows/|FUSE/Requests/'
printf '\n| file | lines executed |\n|---|--:|\n'
jq -r --arg readers "$readers" '.data[0].files[] | select(.filename | test("/Sources/.*(" + $readers + ")"))
    | "| \(.filename | sub(".*/Sources/"; "")) | \(.summary.lines.percent | round) % of \(.summary.lines.count) |"' \
    "$(swift test "${options[@]}" --show-codecov-path)"
