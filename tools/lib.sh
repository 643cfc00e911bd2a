# Shell functions that the scripts in tools/ share. Source it; it needs sh and nothing else.

# --help, for every script: the comment that it begins with.
for argument; do
    case $argument in
        -h | --help) sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p }' "$0"; exit 0 ;;
    esac
done

# say TEXT: a headline on standard output.
say() { printf '\n==> %s\n' "$*"; }

# die TEXT: one sentence on standard error, and out.
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# need_packages PACKAGE...: installs the Debian packages that are missing, through sudo when not root.
need_packages() {
    missing=
    for package in "$@"; do
        # A held or half-removed package is not an installed one.
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "these packages are missing, and there is no apt-get to install them:$missing"
    say "installing Debian packages:$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "installing needs root: run as root, or install sudo, or install:$missing"
        as_root=sudo
    fi
    # shellcheck disable=SC2086  # a list of words on purpose
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing && return 0
    # The package lists may be missing or old.
    $as_root apt-get update
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}

# need_swift: the toolchain cannot come from Debian, so it is only looked for.
need_swift() {
    command -v swift >/dev/null ||
        die "the Swift toolchain is missing: install Swift 6.2 or later from https://www.swift.org/install/linux/ and put it in PATH"
}

# What building needs; what tests need besides.
BUILD_PACKAGES="libfuse3-dev liblz4-dev fuse3 pkg-config"
TEST_PACKAGES="acl attr bzip2 e2fsprogs fio gcc git jq libc6-dev python3 rsync sqlite3 tar util-linux"
