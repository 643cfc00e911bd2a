#!/bin/sh
# From a fresh clone to a working mount: builds a release, mounts a store at a directory, copies files
# in, shows that they are keys, and leaves the mount ready to use.
#
#   tools/quickstart.sh [STORE MOUNTPOINT]      default: ~/o3fs-store ~/o3fs
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tools/lib.sh"

case $# in
    0) store=$HOME/o3fs-store mountpoint=$HOME/o3fs ;;
    2) store=$1 mountpoint=$2 ;;
    *) die "usage: tools/quickstart.sh [STORE MOUNTPOINT]" ;;
esac

# shellcheck disable=SC2086  # a list of words
need_packages $BUILD_PACKAGES
need_swift
[ -c /dev/fuse ] || die "/dev/fuse is missing: load the fuse module (modprobe fuse), or give the container the device"

say "building a release (a few minutes the first time)"
(cd "$root" && swift build -c release --product o3fs)
o3fs=$(cd "$root" && swift build -c release --show-bin-path)/o3fs

if mountpoint -q "$mountpoint"; then
    die "$mountpoint is a mountpoint already: run $o3fs umount $mountpoint, or give another directory"
fi
mkdir -p "$mountpoint"

say "mounting the store $store at $mountpoint"
"$o3fs" mount "$store" "$mountpoint"

say "copying files in"
mkdir -p "$mountpoint/welcome"
cp "$root/README.md" "$root/LICENSE" "$mountpoint/welcome/"
cp -r "$root/docs" "$mountpoint/welcome/"
ln -sf README.md "$mountpoint/welcome/start-here"
ls -l "$mountpoint/welcome"
cmp "$root/README.md" "$mountpoint/welcome/README.md"

say "each of them is a few keys of the store (shown while it is unmounted)"
"$o3fs" umount "$mountpoint"
for path in /welcome /welcome/README.md; do
    printf '\n%s:\n' "$path"
    "$o3fs" kv scan "$store" --path "$path" --limit 8
done

say "mounting it again: everything is still there"
"$o3fs" mount "$store" "$mountpoint"
cmp "$root/README.md" "$mountpoint/welcome/README.md"
"$o3fs" status "$mountpoint"

cat <<END

Ready. Work in $mountpoint as in any directory.

  $o3fs stats $mountpoint      what the engine has done
  $o3fs umount $mountpoint     stop; the store stays in $store
  $o3fs --help
END
