#!/bin/sh
# Reads whose answers are checked, while others write, seal and flush and a small offset cache turns over.
#
#   tools/soak/reads.sh [READS]     default: 100000000, a sixth of them with each placement and policy
#
# Built as a release, with what tests need.
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES
need_swift
O3LSM_CHECKED_READS="${1:-100000000}" swift test -c release --scratch-path .build/soak \
    -Xswiftc -enable-testing -Xswiftc -DFAULT_POINTS --filter CheckedReadsTests
