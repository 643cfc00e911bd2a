#!/bin/sh
# The engine's tests with many threads under ThreadSanitizer: fails on any report.
#
#   tools/soak/tsan.sh [FILTER]     default: the tests with threads
#
# Not LateWorkerTests: a race for slabs is what they are about.
# O3LSM_CONCURRENT_SECONDS makes the test with eight threads longer. Reports are left in tsan-report.* of the
# build directory.
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES
need_swift
directory=.build-tsan
swift build --build-tests --sanitize=thread --scratch-path $directory -Xswiftc -DTHREAD_SANITIZER
rm -f $directory/tsan-report.*
TSAN_OPTIONS="halt_on_error=0 exitcode=0 history_size=4 log_path=$PWD/$directory/tsan-report suppressions=$PWD/tools/soak/tsan.supp" \
    swift test --skip-build --sanitize=thread --scratch-path $directory -Xswiftc -DTHREAD_SANITIZER \
    --filter "${1:-\.ConcurrentUseTests|\.StagedPlacementTests|\.WorkerTests|AttemptFileTests|LeakTests}"
reports=$(cat $directory/tsan-report.* 2>/dev/null | grep -c "WARNING: ThreadSanitizer" || true)
[ "${reports:-0}" = 0 ] || { echo "tsan.sh: $reports reports in $directory/tsan-report.*" >&2; exit 1; }
echo "tsan.sh: no report"
