#!/usr/bin/env python3
"""Kills the daemon of a mount again and again, while threads do what must be done exactly once.

    tools/soak/survive.py O3FS STORE MOUNTPOINT ROUNDS [--workers] [--upgrade] [--sync] [--gap SECONDS]

Each call's result is known beforehand: one that is done twice, or not at all, shows. Prints the pauses that a
program sees: from the kill to the answer of a call that is made at once. With --upgrade another daemon takes over in
order (`o3fs upgrade`), and the pause is the longest call meanwhile. With --sync an fsync follows each kill: how long
it takes depends on what others write, and on the disk. Ends with status 1 at the first surprise.
"""
import argparse
import contextlib
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("o3fs", help="the program")
parser.add_argument("store")
parser.add_argument("mountpoint")
parser.add_argument("rounds", type=int)
parser.add_argument("--workers", action="store_true", help="kill workers as well")
parser.add_argument("--upgrade", action="store_true", help="let another daemon take over instead of a kill")
parser.add_argument("--sync", action="store_true", help="time an fsync after each kill as well")
parser.add_argument("--gap", type=float, default=0.3, help="mean seconds between kills")
options = parser.parse_args()
o3fs, store, mnt, rounds = options.o3fs, options.store, options.mountpoint, options.rounds
stop = threading.Event()
problems = []
turns = [0] * 4
log = open(f"{store}/o3fs.log")


def status():
    """What the daemon answers on its socket; None when none does."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(f"{store}/control.sock")
            s.sendall(b'{"command":"status"}\n')
            data = b""
            while not data.endswith(b"\n"):
                part = s.recv(1 << 16)
                if not part:
                    return None
                data += part
            return json.loads(data)["result"]
    except OSError:
        return None


def expect(what, wanted, call, *arguments):
    found = 0
    try:
        call(*arguments)
    except OSError as error:
        found = error.errno
    if found != wanted:
        raise AssertionError(f"{what} {arguments}: {errno.errorcode.get(found, found)}, not {errno.errorcode.get(wanted, wanted)}")


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def names(thread):
    """Makes, links, renames and removes: every result is known."""
    base = f"{mnt}/once{thread}"
    os.mkdir(base)
    step = 0
    while not stop.is_set():
        n = f"{base}/{step}"
        step += 1
        expect("mkdir", 0, os.mkdir, n + ".d")
        expect("mkdir", errno.EEXIST, os.mkdir, n + ".d")
        expect("create", 0, create, n)
        expect("create", errno.EEXIST, create, n)
        expect("link", 0, os.link, n, n + ".l")
        expect("symlink", 0, os.symlink, "target", n + ".s")
        expect("setxattr", 0, os.setxattr, n, "user.one", b"1", os.XATTR_CREATE)
        expect("removexattr", 0, os.removexattr, n, "user.one")
        expect("rename", 0, os.rename, n, n + ".r")
        expect("rename", errno.ENOENT, os.rename, n, n + ".r")
        if os.stat(n + ".l").st_nlink != 2:
            raise AssertionError("links")
        expect("rename", 0, os.rename, n + ".r", n + ".s")
        expect("unlink", 0, os.unlink, n + ".l")
        expect("unlink", errno.ENOENT, os.unlink, n + ".l")
        expect("unlink", 0, os.unlink, n + ".s")
        expect("rmdir", 0, os.rmdir, n + ".d")
        expect("rmdir", errno.ENOENT, os.rmdir, n + ".d")
        turns[thread] += 1
    if os.listdir(base):
        raise AssertionError(f"left in {base}: {os.listdir(base)}")


def open_files(_):
    """Writes to files that have lost their names, and appends to one that has not; reads both again."""
    count = 0
    with open(f"{mnt}/append", "ab", buffering=0) as file:
        while not stop.is_set():
            path = f"{mnt}/gone"
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
            os.unlink(path)
            data = os.urandom(random.randrange(1, 200_000))
            for start in range(0, len(data), 10_000):
                os.pwrite(fd, data[start : start + 10_000], start)
                time.sleep(0.003)
            if os.pread(fd, len(data) + 1, 0) != data:
                raise AssertionError("a file without a name holds something else")
            os.close(fd)
            file.write(b"%09d\n" % count)
            count += 1
            turns[3] += 1
    with open(f"{mnt}/append", "rb") as file:
        if file.read() != b"".join(b"%09d\n" % n for n in range(count)):
            raise AssertionError("appended lines are missing, or there twice")


def listings(_):
    """A directory that does not change is the same in each listing."""
    base = f"{mnt}/many"
    os.mkdir(base)
    for n in range(3000):
        create(f"{base}/{n}")
    while not stop.is_set():
        found = 0
        with os.scandir(base) as entries:
            for _ in entries:
                found += 1
                if found % 500 == 0:
                    time.sleep(0.02)
        if found != 3000:
            raise AssertionError(f"a listing of {found} entries of 3000")


def guarded(body, number):
    try:
        body(number)
    except BaseException as error:
        problems.append(f"{body.__name__}: {error!r}")
        stop.set()


def probe():
    """The seconds that a call takes."""
    start = time.monotonic()
    os.mkdir(f"{mnt}/probe")
    taken = time.monotonic() - start
    os.rmdir(f"{mnt}/probe")
    return taken


def synced():
    """The seconds that the fsync of a small file takes."""
    fd = os.open(f"{mnt}/synced", os.O_CREAT | os.O_WRONLY)
    os.pwrite(fd, b"synced", 0)
    start = time.monotonic()
    os.fsync(fd)
    taken = time.monotonic() - start
    os.close(fd)
    return taken


def upgrade():
    """Lets another daemon take over; returns the seconds of the longest call meanwhile."""
    command = subprocess.Popen([o3fs, "upgrade", mnt], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    longest = probe()
    while command.poll() is None:
        longest = max(longest, probe())
    if command.returncode != 0:
        raise AssertionError(command.stdout.read())
    return longest


threads = [threading.Thread(target=guarded, args=(names, n)) for n in range(3)]
threads += [threading.Thread(target=guarded, args=(body, 0)) for body in (open_files, listings)]
for thread in threads:
    thread.start()

pauses, sync_pauses = [], []
daemon = status()["daemon"]["pid"]
for round in range(rounds):
    time.sleep(random.uniform(0, 2 * options.gap))
    if stop.is_set():
        break
    if options.workers:
        for worker in status()["workers"]:
            if random.random() < 0.5 and worker["pid"] != daemon:
                # One that was killed a moment ago may still be listed.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGKILL)
    start = time.monotonic()
    try:
        if options.upgrade:
            pauses.append(upgrade())
        else:
            os.kill(daemon, signal.SIGKILL)
            pauses.append(probe())
        if options.sync:
            sync_pauses.append(synced())
    except (OSError, AssertionError) as error:
        problems.append(f"probe: {error!r}")
    while not problems:
        now = status()
        if now and now["daemon"]["pid"] != daemon:
            daemon = now["daemon"]["pid"]
            break
        if time.monotonic() - start > 60:
            problems.append("no other daemon came")
        time.sleep(0.002)
    if problems:
        break
    if (round + 1) % 100 == 0:
        print(f"{'upgrade' if options.upgrade else 'kill'} {round + 1}: fine, {sum(turns)} turns", flush=True)
stop.set()
for thread in threads:
    thread.join(60)
last = status() or {}


def spread(seconds):
    at = lambda p: sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * p))] * 1000
    return f"P50 {at(0.5):.0f} ms, P99 {at(0.99):.0f} ms, longest {max(seconds) * 1000:.0f} ms"


if pauses:
    dm = last.get("dm", {})
    print(
        f"{len(pauses)} {'upgrades' if options.upgrade else 'kills'}, {sum(turns)} turns; pause {spread(pauses)}; "
        f"memtables in DM: {sum(m['bytes'] for m in dm.get('memtables', [])) >> 20} MiB"
    )
if sync_pauses:
    print(f"fsync after each: {spread(sync_pauses)}")
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
