#!/bin/sh
# Reads whose answers are checked, while others write, seal and flush and a small offset cache turns over.
#
#   tools/soak/reads.sh [READS]     default: 100000000, half of them with each placement
set -eu
cd "$(dirname "$0")/../.."
. tools/lib.sh

need_packages $BUILD_PACKAGES
need_swift
O3LSM_CHECKED_READS="${1:-100000000}" swift test --filter CheckedReadsTests
