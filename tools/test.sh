#!/bin/sh
# Builds everything and runs all tests. Installs Debian packages that are missing.
#
#   tools/test.sh              all tests
#   tools/test.sh --filter X   those whose name matches X (arguments go to `swift test`)
#
# Tests that mount are skipped, with a line that says so, where /dev/fuse is missing.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

# shellcheck disable=SC2086  # lists of words
need_packages $BUILD_PACKAGES $TEST_PACKAGES
need_swift

# The integration tests drive the binary that users run; a debug build would take several times as long.
say "building the release binary"
swift build -c release --product o3fs
O3FS_BINARY=$(swift build -c release --show-bin-path)/o3fs
export O3FS_BINARY

if [ ! -c /dev/fuse ]; then
    say "/dev/fuse is missing: tests that mount are skipped"
fi

say "building and running the tests"
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
# A pipe would hide the exit status of the tests, and POSIX shells have no `pipefail`.
{ swift test "$@" 2>&1 && echo 0 >"$LOG.status" || echo "$?" >"$LOG.status"; } | tee "$LOG"
status=$(cat "$LOG.status")
rm -f "$LOG.status"
if [ "$status" -ne 0 ]; then
    say "what failed, once more:"
    grep -E '✘|error:|Fatal|Issue recorded' "$LOG" | tail -n 100 || true
fi
exit "$status"
