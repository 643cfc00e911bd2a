#!/bin/bash
# The programs that tools/compat.sh runs, each a function that works in an empty mount and fails at the first thing
# that does not hold. `programs.sh --list` names them; `programs.sh NAME MOUNT` runs one, with an empty directory
# outside the mount in $SCRATCH. Status 77: cannot be run here, and the last line of output says why.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
# Names are bytes here.
export LC_ALL=C

cat_() { printf '%s\t%s\n' "$1" "$2"; }
catalogue() {
    cat_ git "clone, branches, rebase, gc, fsck --strict, contents as in the origin"
    cat_ sqlite "WAL, DELETE, TRUNCATE, PERSIST; four writers; kill -9 of one; integrity_check"
    cat_ tar "xattrs, ACLs, holes, links, devices: in and out again, the same"
    cat_ rsync "-aHAXS --delete there and back, checksums compared both ways"
    cat_ rename "editors that replace a file by rename: readers see the old or the new"
    cat_ mapping "gcc, ar, ld -flto, shared mmap between processes, ETXTBSY"
    cat_ postgresql "initdb with checksums, pgbench, kill -9 and recovery, balances, pg_amcheck"
    cat_ make "Lua from Debian's source, make -j4, runs its own output"
    cat_ dpkg "dpkg-deb -x of coreutils, md5sums, runs what it unpacked"
    cat_ venv "python3 -m venv, pip install of a wheel, its command, pip check, uninstall"
    cat_ overlayfs "mount as lower and upper layer: copy up, whiteouts, opaque directories, rename"
    cat_ dbench "four clients, ten seconds"
    cat_ bonnie++ "256 MiB and 4,096 files"
    cat_ postmark "500 files, 3,000 transactions"
    cat_ stress-ng "--class filesystem --verify, two processes, each stressor a second"
}

skip() { echo "$*"; exit 77; }
need() { for program; do command -v "$program" >/dev/null || skip "$program is not installed"; done; }
need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }
# refused COMMAND...: must fail. `! command` would not stop a script under `set -e`, whatever the command does.
refused() { if "$@" 2>/dev/null; then echo "should have been refused: $*"; return 1; fi; }

# A tree with everything that archives and copies have to keep.
make_tree() {
    mkdir -p "$1/deep/er/still" "$1/empty"
    (
        cd "$1"
        for i in $(seq 300); do seq "$i" $((i * 7)) >"deep/file$i"; done
        head -c 3000000 /dev/urandom >deep/er/random
        ln deep/er/random hard; ln -s deep/er/random soft; ln -s nowhere dangling
        truncate -s 64M sparse; echo end >>sparse
        mkfifo fifo
        printf x >$'bad\xff\xfeutf8 \n name'
        chmod 4751 deep/file1; chmod 2755 empty; chmod 1777 deep/er
        setfattr -n user.colour -v blue deep/file2; setfattr -n user.on -v directory deep
        setfacl -m u:1234:rw,g:4321:r deep/file3; setfacl -d -m u:1234:rwx deep/er/still
        if [ "$(id -u)" = 0 ]; then
            chown 1000:2000 deep/file4; mknod null c 1 3; setfattr -n trusted.secret -v 1 deep/file5
        fi
        touch -d '1969-07-20 20:17:40.123456789 UTC' deep/file6; touch -h -d '2101-01-01 00:00:00.5 UTC' soft
    )
}
# What a tree is, without its contents.
describe() {
    (
        cd "$1"
        find . ! -type d -printf '%p %y %m %U:%G %s %n %T@ %l\n' | sort
        find . -type d -printf '%p %m %U:%G\n' | sort
        getfattr -R -P -h -d -m '^(user|trusted)[.]' . | sort
        getfacl -R -P -n . | sort
    )
}

run_git() {
    need git
    export HOME=$SCRATCH GIT_CONFIG_NOSYSTEM=1 GIT_EDITOR=true
    git config --global user.name Test; git config --global user.email test@example.org
    git config --global init.defaultBranch main; git config --global --add safe.directory '*'
    git config --global core.fsync all
    origin=$SCRATCH/origin
    git init -q "$origin"
    for commit in $(seq 60); do
        mkdir -p "$origin/dir$((commit % 7))"
        seq "$commit" $((commit + 500)) >"$origin/dir$((commit % 7))/file$commit"
        ln -sfn "file$commit" "$origin/dir$((commit % 7))/newest"
        git -C "$origin" add -A; git -C "$origin" commit -qm "commit $commit"
    done
    git clone -q --no-local "$origin" clone
    cd clone
    [ "$(git rev-list --count HEAD)" = 60 ]
    [ -z "$(git status --porcelain)" ]
    git checkout -q -b topic HEAD~20
    for i in $(seq 10); do echo "$i" >>mine; git add mine; git commit -qm "mine $i"; done
    git rebase -q main
    [ "$(git rev-list --count main..topic)" = 10 ] && [ "$(wc -l <mine)" = 10 ]
    git stash list; git worktree add -q --detach ../other main; [ -f ../other/dir1/file1 ]
    git gc -q --prune=now; git repack -adfq
    git fsck --full --strict
    git checkout -q main
    diff -r --no-dereference --exclude=.git . "$origin"
    git bundle create -q ../all.bundle --all; git bundle verify -q ../all.bundle
}

run_sqlite() {
    need sqlite3
    for journal in wal delete truncate persist; do
        [ "$(sqlite3 "$journal.db" "PRAGMA journal_mode=$journal; CREATE TABLE t(w, i, pad);" | head -1)" = "$journal" ]
        writers=''
        for writer in 1 2 3 4; do
            (
                for part in $(seq 25); do
                    # One transaction each, as long as the others let it wait.
                    echo "PRAGMA busy_timeout=60000; BEGIN IMMEDIATE;"
                    for i in 1 2 3 4; do echo "INSERT INTO t VALUES($writer, $((part * 4 + i)), hex(randomblob(200)));"; done
                    echo "COMMIT;"
                done
            ) | sqlite3 -bail "$journal.db" >/dev/null &
            writers="$writers $!"
        done
        for pid in $writers; do wait "$pid"; done
        [ "$(sqlite3 "$journal.db" 'SELECT count(*) FROM t')" = 400 ]
        # A writer dies in the middle of a transaction that has spilled to the file: nothing of it is seen.
        mkfifo "$SCRATCH/$journal"
        sqlite3 "$journal.db" <"$SCRATCH/$journal" & pid=$!
        exec 9>"$SCRATCH/$journal"
        echo "PRAGMA cache_size=5; BEGIN; UPDATE t SET pad = hex(randomblob(300)), w = 9;" >&9
        sleep 0.5
        kill -9 "$pid"; wait "$pid" 2>/dev/null || true
        exec 9>&-
        [ "$(sqlite3 "$journal.db" 'SELECT count(*) FROM t WHERE w = 9')" = 0 ]
        [ "$(sqlite3 "$journal.db" 'PRAGMA integrity_check')" = ok ]
        sqlite3 "$journal.db" 'VACUUM'
        [ "$(sqlite3 "$journal.db" 'PRAGMA integrity_check; SELECT count(*) FROM t' | tr '\n' ' ')" = "ok 400 " ]
    done
}

run_tar() {
    need tar setfattr setfacl
    make_tree "$SCRATCH/from"
    flags="--xattrs --xattrs-include=* --acls --sparse --numeric-owner"
    set -f
    tar $flags -C "$SCRATCH/from" -cf "$SCRATCH/in.tar" .
    mkdir here "$SCRATCH/back"
    tar $flags -xpf "$SCRATCH/in.tar" -C here
    describe "$SCRATCH/from" >"$SCRATCH/1"; describe here >"$SCRATCH/2"
    diff "$SCRATCH/1" "$SCRATCH/2"
    diff <(cd "$SCRATCH/from" && find . -type f -exec md5sum {} + | sort) <(cd here && find . -type f -exec md5sum {} + | sort)
    [ "$(stat -c %b here/sparse)" -lt 1000 ]
    tar $flags -C here -cf out.tar .
    tar $flags -xpf out.tar -C "$SCRATCH/back"
    describe "$SCRATCH/back" >"$SCRATCH/3"; diff "$SCRATCH/1" "$SCRATCH/3"
    tar -C here -df "$SCRATCH/in.tar"
}

run_rsync() {
    need rsync setfattr setfacl
    make_tree "$SCRATCH/from"
    same() { [ -z "$(rsync -aHAXSn --checksum --delete --itemize-changes "$1/" "$2/" | tee /dev/stderr)" ]; }
    rsync -aHAXS --delete "$SCRATCH/from/" here/
    same "$SCRATCH/from" here; same here "$SCRATCH/from"
    [ here/hard -ef here/deep/er/random ]
    (
        cd "$SCRATCH/from"
        rm -r deep/file1*; mv deep/file20 deep/moved; echo more >>deep/er/random
        setfattr -x user.colour deep/file2; setfacl -b deep/file3; rm soft; mkdir soft
    )
    rsync -aHAXS --delete --no-whole-file --inplace "$SCRATCH/from/" here/
    same "$SCRATCH/from" here; same here "$SCRATCH/from"
    rsync -aHAXS --delete here/ "$SCRATCH/back/"
    same here "$SCRATCH/back"; same "$SCRATCH/from" "$SCRATCH/back"
}

run_rename() {
    need sed perl python3
    seq 20000 | sed 's/.*/old/' >text
    sed -i s/old/new/ text; [ "$(sort -u text)" = new ]
    perl -pi.bak -e s/new/newer/ text; [ "$(sort -u text.bak)" = new ] && [ "$(sort -u text)" = newer ]
    if command -v vim >/dev/null; then vim -Nu NONE -es +'%s/newer/newest/' +wq text; [ "$(sort -u text)" = newest ]; fi
    python3 - <<'PYTHON'
import os, multiprocessing, time
def contents(i): return (b"%06d\n" % i) * 5000
def replace(i):
    with open("new", "wb") as f:
        f.write(contents(i)); f.flush(); os.fsync(f.fileno())
    os.rename("new", "file")
replace(0)
def read(done):
    last = -1
    while not done.is_set():
        data = open("file", "rb").read()
        i = int(data[:6])
        assert data == contents(i), "neither the old file nor the new one"
        assert i >= last, "an older file came back"
        last = i
done = multiprocessing.Event()
readers = [multiprocessing.Process(target=read, args=(done,)) for _ in range(3)]
for r in readers: r.start()
for i in range(1, 1000): replace(i)
done.set()
for r in readers:
    r.join()
    assert r.exitcode == 0
assert sorted(os.listdir(".")) == ["file", "text", "text.bak"], os.listdir(".")
PYTHON
}

run_mapping() {
    need gcc ar python3
    for i in $(seq 40); do echo "int f$i(int x) { return x * $i + 1; }" >"f$i.c"; done
    { for i in $(seq 40); do echo "int f$i(int);"; done; echo '#include <stdio.h>'
      echo 'int main(void) { long s = 0;'; for i in $(seq 40); do echo "s += f$i($i);"; done; echo 'printf("%ld\n", s); return 0; }'
    } >main.c
    gcc -pipe -O2 -flto=2 -g -c f*.c main.c
    ar rcs libf.a f*.o
    gcc -O2 -flto=2 main.o -L. -lf -o program
    [ "$(./program)" = $((40 * 41 * 81 / 6 + 40)) ]
    gcc -shared -fPIC -o libshared.so f*.c; gcc main.c -o dynamic -L. -lshared -Wl,-rpath,"$PWD"
    [ "$(./dynamic)" = "$(./program)" ]
    cp "$(command -v sleep)" sleeper
    ./sleeper 30 & pid=$!
    sleep 0.3
    refused bash -c 'exec 3>>sleeper'
    kill "$pid"; wait "$pid" || true
    echo >>sleeper
    python3 - <<'PYTHON'
import mmap, os
size = 8 << 20
with open("shared", "wb") as f: f.truncate(size)
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        with open("shared", "r+b") as f, mmap.mmap(f.fileno(), size) as m:
            for at in range(child, size, 4 * 97): m[at] = child + 1
            m.flush()
        os._exit(0)
    children.append(pid)
for pid in children: assert os.waitpid(pid, 0)[1] == 0
data = open("shared", "rb").read()
want = bytearray(size)
for child in range(4):
    for at in range(child, size, 4 * 97): want[at] = child + 1
assert data == want
with open("shared", "r+b") as f, mmap.mmap(f.fileno(), size, flags=mmap.MAP_PRIVATE) as m:
    m[:5] = b"abcde"
assert open("shared", "rb").read() == want, "a private mapping reached the file"
with open("shared", "r+b") as f, mmap.mmap(f.fileno(), size) as m:
    f.seek(4096); f.write(b"written"); f.flush()
    assert m[4096:4103] == b"written"
    m[0:6] = b"mapped"
    assert os.pread(f.fileno(), 6, 0) == b"mapped"
PYTHON
}

run_postgresql() {
    need_root
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1) || true
    [ -n "$bin" ] || skip "PostgreSQL is not installed"
    id postgres >/dev/null || skip "there is no user postgres"
    mkdir data "$SCRATCH/socket"; chown postgres: data "$SCRATCH/socket"; chmod 700 data
    data=$PWD/data
    export PGHOST=$SCRATCH/socket PGUSER=postgres PGDATABASE=bench
    as() { runuser -u postgres -- env PGHOST="$PGHOST" "$@"; }
    # Not in the mount: a server's current directory would keep it busy only while it lives, but pg_ctl says so aloud.
    cd /
    as "$bin/initdb" -D "$data" --data-checksums -A trust >/dev/null
    options="-k $PGHOST -c listen_addresses= -c wal_sync_method=fdatasync -c max_wal_size=256MB"
    start() {
        for _ in $(seq 20); do
            as "$bin/pg_ctl" -D "$data" -w -l "$data/log" -o "$options" start >/dev/null 2>&1 && return 0
            # Children of a killed server hold its shared memory for a moment.
            sleep 1
        done
        tail "$data/log"; return 1
    }
    stop() { as "$bin/pg_ctl" -D "$data" -m "$1" -w stop >/dev/null 2>&1 || true; }
    trap 'stop immediate' EXIT
    start
    "$bin/createdb" bench
    "$bin/pgbench" -q -i -s 5 2>/dev/null
    # What the balances of accounts, branches and tellers say of the history (-n: pgbench empties it otherwise).
    balanced() {
        [ "$("$bin/psql" -Atc "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
            AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
            AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")" = t ]
    }
    "$bin/pgbench" -n -c 4 -j 2 -T 8 2>/dev/null | grep -E 'tps|failed'
    balanced
    for round in 1 2; do
        "$bin/pgbench" -n -c 4 -j 2 -T 30 >"$SCRATCH/load" 2>&1 & load=$!
        sleep 4
        server=$(head -1 "$data/postmaster.pid")
        children=$(cat "/proc/$server/task/$server/children")
        # shellcheck disable=SC2086  # a list of words
        kill -9 "$server" $children 2>/dev/null || true
        wait "$load" || true
        start
        balanced
        echo "round $round: $("$bin/psql" -Atc 'SELECT count(*) FROM pgbench_history') transactions"
    done
    "$bin/pg_amcheck" --install-missing --heapallindexed --all
    "$bin/vacuumdb" -q --all --analyze
    stop fast
    trap - EXIT
    as "$bin/pg_checksums" -D "$data" --check | grep -E 'Bad checksums: +0'
}

# Sources from Debian without touching the machine's own list of them.
fetch_source() {
    mkdir -p "$SCRATCH/apt/lists/partial" "$SCRATCH/source"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${1%:*} main" \
        >"$SCRATCH/apt/sources.list"
    apt="apt-get -q -o Dir::Etc::SourceList=$SCRATCH/apt/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$SCRATCH/apt/lists"
    # Downloads go without the sandbox user, who may not write here.
    apt="$apt -o APT::Sandbox::User=root"
    (cd "$SCRATCH/source" && $apt update && $apt source --download-only "${1#*:}") || skip "Debian's sources cannot be reached"
}

run_make() {
    need make gcc tar apt-get
    # shellcheck disable=SC1091
    fetch_source "$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}"):lua5.4"
    mkdir lua && tar -xf "$SCRATCH"/source/*.orig.tar.* --strip-components=1 -C lua
    make -s -C lua/src -j4 generic
    echo 'local t = {} for i = 1, 1e5 do t[i] = i end; print(#t, _VERSION)' >t.lua
    lua/src/lua t.lua | grep -q '^100000'
    lua/src/luac -o t.luac t.lua; lua/src/lua t.luac | grep -q 'Lua 5.4'
    # Times are kept well enough that nothing is made twice, and that what is touched is made again.
    make -s -C lua/src -j4 -q generic || make -C lua/src -n generic | grep -c 'gcc -' | grep -qx 0
    cp lua/src/lua before; touch lua/src/lapi.c; make -s -C lua/src -j4 generic
    [ lua/src/lapi.o -nt lua/src/lapi.c ] && cmp before lua/src/lua
}

run_dpkg() {
    need dpkg-deb apt-get md5sum
    (cd "$SCRATCH" && apt-get -q -o APT::Sandbox::User=root download coreutils) || skip "Debian's packages cannot be reached"
    dpkg-deb -x "$SCRATCH"/coreutils_*.deb unpacked
    dpkg-deb -e "$SCRATCH"/coreutils_*.deb control
    (cd unpacked && md5sum --quiet -c ../control/md5sums)
    unpacked/bin/ls -l unpacked/bin >/dev/null
    [ "$(seq 1000 | unpacked/usr/bin/shuf | unpacked/usr/bin/sort -n | unpacked/usr/bin/md5sum)" = "$(seq 1000 | md5sum)" ]
    dpkg-deb -b unpacked rebuilt.deb 2>/dev/null || {
        mkdir unpacked/DEBIAN && cp control/control unpacked/DEBIAN && dpkg-deb -Zgzip -b unpacked rebuilt.deb
    }
    dpkg-deb -x rebuilt.deb again
    rm -rf unpacked/DEBIAN; diff -r --no-dereference unpacked again
}

run_venv() {
    need python3
    export HOME=$SCRATCH PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    python3 -m venv env || skip "python3-venv is not installed"
    python3 - <<'PYTHON'
import zipfile
with zipfile.ZipFile("demo-1.0-py3-none-any.whl", "w") as wheel:
    files = {"demo/__init__.py": "def main(): print('demo runs')\n",
             "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
             "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             "demo-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n"}
    for i in range(300): files["demo/module%d.py" % i] = "value = %d\n" % i
    for name, text in files.items(): wheel.writestr(name, text)
    wheel.writestr("demo-1.0.dist-info/RECORD", "".join(n + ",,\n" for n in files) + "demo-1.0.dist-info/RECORD,,\n")
PYTHON
    env/bin/pip install -q ./demo-1.0-py3-none-any.whl
    [ "$(env/bin/demo)" = "demo runs" ]
    env/bin/python -c 'import importlib; assert sum(importlib.import_module(f"demo.module{i}").value for i in range(300)) == 44850'
    env/bin/pip check
    env/bin/python -m compileall -q env/lib
    env/bin/pip uninstall -q -y demo
    refused env/bin/python -c 'import demo'
}

run_overlayfs() {
    need_root
    mkdir lower upper work merged
    for i in $(seq 100); do echo "$i" >"lower/f$i"; done
    mkdir lower/gone lower/kept; echo in >lower/gone/in; echo in >lower/kept/in
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged ||
        skip "the kernel takes no overlay here: $(dmesg 2>/dev/null | grep -i overlay | tail -1)"
    merged=$PWD/merged
    trap 'umount -l "$merged"' EXIT
    (
        cd merged
        [ "$(cat f* | paste -sd+ | bc 2>/dev/null || echo 5050)" = 5050 ]
        echo more >>f1; rm f2; rm -r gone; mkdir gone; echo new >gone/new; mv f3 moved; chmod 600 f4
        setfattr -n user.colour -v red f5; ln f6 hard; mv -T gone went; rm kept/in
        touch was; [ ! -e f2 ] && [ ! -e gone ] && [ "$(ls went)" = new ] && [ -z "$(ls kept)" ]
    )
    [ "$(cat lower/f1)" = 1 ] && [ "$(tail -1 upper/f1)" = more ]
    [ -c upper/f2 ] && [ "$(stat -c '%t %T' upper/f2)" = "0 0" ]
    umount merged
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
    [ ! -e merged/f2 ] && [ "$(cat merged/went/new)" = new ] && [ "$(getfattr --only-values -n user.colour merged/f5)" = red ]
    umount merged
    trap - EXIT
}

run_dbench() {
    need dbench
    loads=/usr/share/dbench/client.txt
    [ -e "$loads" ] || skip "$loads is missing"
    dbench -D . -t 10 -c "$loads" 4 | tail -n 3 | grep Throughput
}

run_bonnie++() {
    PATH=$PATH:/usr/sbin
    need bonnie++
    # -f: not byte by byte, which without a writeback cache is a message to the daemon for each of them.
    bonnie++ -f -d . -s 256M -r 128M -n 4 -u "$(id -u):$(id -g)" -q
    [ -z "$(ls -A)" ]
}

run_postmark() {
    need postmark
    printf 'set location %s\nset number 500\nset transactions 3000\nset subdirectories 20\nset size 500 50000\nrun\nquit\n' "$PWD" |
        postmark >"$SCRATCH/out"
    cat "$SCRATCH/out"
    grep -q 'transactions' "$SCRATCH/out"
    refused grep -qi error "$SCRATCH/out"
    [ -z "$(ls -A)" ]
}

run_stress-ng() {
    need stress-ng
    # A stressor that the machine lacks something for is skipped by the program itself, and is no failure.
    stress-ng --class filesystem --sequential 2 --timeout 1s --verify --temp-path "$PWD" --metrics-brief 2>&1 |
        tee "$SCRATCH/out" | grep -vE 'metrc|dispatching' || true
    grep -q 'passed: ' "$SCRATCH/out" || grep -q 'successful run completed' "$SCRATCH/out"
    refused grep -E 'stress-ng: fail:' "$SCRATCH/out"
}

if [ "${1:-}" = --list ]; then catalogue; exit; fi
cd "$2"
"run_$1"
