#!/usr/bin/env python3
"""Differential test of a file system against another: random scripts, or given ones, for posixprobe.

  posix.py PROBE SUBJECT ORACLE [--operations N] [--length N] [--seed S] [--jobs N] [--script FILE]... [--kill O3FS]

SUBJECT and ORACLE are directories. Scripts made of a seed are always the same. The first one whose printouts differ is
reduced (delta debugging) to the shortest that still differs, and printed; the exit status then is 1.

With --kill, the daemon of the mount that SUBJECT is in is killed again and again; O3FS is the program that tells which.
Mount it with a high --max-restarts.
"""
import argparse, concurrent.futures, json, os, random, shutil, signal, subprocess, sys, tempfile, threading, time

USERS = ["", "", "", "", "@4001:4001,4003 ", "@4002:4002 "]
NAMES = ["a", "b", "c", "d", "e", "%ff%fe", "%*255", "l", "s"]
DIRECTORIES = ["", "", "d/", "e/", "d/a/", "d/d/"]


def script(seed, length):
    """Lines of a random script."""
    r = random.Random(seed)

    def name():
        return r.choice(DIRECTORIES) + r.choice(NAMES)

    def slot():
        return r.randrange(6)

    def offset():
        return r.choice([0, 1, 4095, 4096, 4097, 65536, 131072, 131071, r.randrange(400000)])

    def length_():
        return r.choice([1, 100, 4096, 8192, 65536, 131073, r.randrange(1, 200000)])

    def acl():
        named = "".join(f",u:{u}:{r.randrange(8)}" for u in r.sample([4001, 4002], r.randrange(3)))
        groups = "".join(f",g:{g}:{r.randrange(8)}" for g in r.sample([4001, 4003], r.randrange(2)))
        mask = f",m::{r.randrange(8)}" if named or groups or r.random() < 0.3 else ""
        return f"u::{r.randrange(8)}{named},g::{r.randrange(8)}{groups}{mask},o::{r.randrange(8)}"

    def waiting():
        """A process waits for a lock; the others let theirs go; it has it then, or is killed."""
        kind = r.choice(["lockw", "lockw", "oflockw"])
        return [f"&1 {kind} 0 {r.randrange(2)} {r.randrange(100)} {r.randrange(100)}",
                f"&2 lock 0 2 {r.randrange(60)} 0", f"lock {slot()} 2 0 0", f"oflock {slot()} 2 0 0", "await 1", "kill 1",
                "&1 open 0 a b"]

    def mode():
        return r.choice(["0755", "0644", "0700", "0777", "01777", "02775", "06755", "0", "0444"])

    calls = [
        (6, lambda: f"mkdir {name()} {mode()}"),
        (3, lambda: f"rmdir {name()}"),
        (4, lambda: f"unlink {name()}"),
        (4, lambda: f"link {name()} {name()}"),
        (3, lambda: f"symlink {r.choice(['a', 'd/../d', 'd/a', 'nowhere', 's', '%*300'])} {name()}"),
        (8, lambda: f"rename {name()} {name()} {r.choice([0, 0, 0, 1, 2, 3])}"),
        (2, lambda: f"mknod {name()} {r.choice(['0100644', '0140644', '020600'])} {r.choice([0, 259])}"),
        # Of a name that nothing else takes: the kernel keeps no times of pipes that are written to on FUSE.
        (1, lambda: f"mknod {r.choice(DIRECTORIES)}pipe 010644"),
        (4, lambda: f"chmod {name()} {mode()}"),
        (3, lambda: f"chown {name()} {r.choice([-1, 0, 4001, 4002])} {r.choice([-1, 0, 4001, 4003])}"),
        (3, lambda: f"truncate {name()} {offset()}"),
        (2, lambda: f"access {name()} {r.randrange(8)}"),
        (2, lambda: f"list {r.choice(['.', 'd', 'e', 'd/a', name()])}"),
        (2, lambda: f"utimens {name()} {r.choice(['now', 'omit', '5'])} "
                    f"{r.choice(['now', 'omit', '-100.999999999', '4294967296.1', '5000000000.123456789'])}"),
        (2, lambda: f"readlink {name()}"),
        (12, lambda: f"open {slot()} {name()} {r.choice(['bc', 'bc', 'bcx', 'bct', 'b', 'r', 'wca', 'rd', 'bn', 'bT'])} {mode()}"),
        (2, lambda: f"close {slot()}"),
        (5, lambda: f"write {slot()} {length_()} {r.randrange(99)}"),
        (6, lambda: f"pwrite {slot()} {offset()} {length_()} {r.randrange(99)}"),
        (6, lambda: f"pread {slot()} {offset()} {length_()}"),
        (2, lambda: f"seek {slot()} {offset()} {r.choice([0, 1])}"),
        (4, lambda: f"ftruncate {slot()} {offset()}"),
        (3, lambda: f"fallocate {slot()} {r.choice([0, 1, 3, 16, 17, 2])} {offset()} {length_()}"),
        (2, lambda: f"fchmod {slot()} {mode()}"),
        (1, lambda: f"fsync {slot()}"),
        (2, lambda: f"copy {slot()} {offset()} {slot()} {offset()} {length_()}"),
        (1, lambda: f"flock {slot()} {r.choice([1, 2, 8])}"),
        (2, lambda: f"{r.choice(['lock', 'oflock'])} {slot()} {r.randrange(3)} {r.randrange(100)} {r.randrange(100)}"),
        (3, lambda: f"map {slot()} {r.randrange(2)} {offset()} {r.randrange(256)}"),
        (2, lambda: f"setxattr {name()} {r.choice(['user.a', 'user.b', 'trusted.c', 'none.d', 'user.'])} "
                    f"{r.randrange(900)} {r.randrange(3)}"),
        (2, lambda: f"getxattr {name()} {r.choice(['user.a', 'user.b', 'trusted.c'])} {r.choice([0, 3, 4096])}"),
        (2, lambda: f"acl {name()} {r.choice(['access', 'default'])} {acl()}"),
        (2, lambda: f"getxattr {name()} system.posix_acl_{r.choice(['access', 'default'])} {r.choice([0, 4096])}"),
        (1, lambda: f"removexattr {name()} system.posix_acl_{r.choice(['access', 'default'])}"),
        (1, lambda: f"listxattr {name()} {r.choice([0, 0, 5])}"),
        (3, lambda: f"extents {slot()}"),
        (2, lambda: f"linkfd {slot()} {name()}"),
        (2, lambda: f"open {slot()} {r.choice(['.', 'd', 'e', 'd/a'])} bT {mode()}"),
        (1, lambda: f"dup {slot()} {slot()}"),
        (1, lambda: f"maptail {slot()}"),
        (1, lambda: f"getlk {slot()} {r.randrange(2)} {r.randrange(100)} {r.randrange(100)}"),
        (1, lambda: f"openat {slot()} {slot()} {r.choice(NAMES)} {r.choice(['bc', 'r', 'rd'])} {mode()}"),
        (1, lambda: f"mkdirat {slot()} {r.choice(NAMES)} {mode()}"),
        (1, lambda: f"unlinkat {slot()} {r.choice(NAMES)} {r.choice([0, 512])}"),
        (1, lambda: f"renameat {slot()} {r.choice(NAMES)} {slot()} {r.choice(NAMES)}"),
        (1, lambda: f"listfd {slot()}"),
        (1, lambda: f"fchown {slot()} {r.choice([-1, 0, 4001])} {r.choice([0, 4001, 4003])}"),
        (1, lambda: f"removexattr {name()} {r.choice(['user.a', 'user.b', 'trusted.c'])}"),
    ]
    # What other processes do with files of their own: handles live on there, locks stand in each other's way.
    open_files = ("open ", "close ", "write ", "pwrite ", "pread ", "seek ", "ftruncate ", "fallocate ", "lock ", "oflock ", "flock ",
                  "map ", "copy ", "fchmod ", "unlink ", "rename ", "extents ", "linkfd ", "dup ", "getlk ", "maptail ")
    weights = [weight for weight, _ in calls]
    lines = ["chmod . 0777", "mkdir d 0777", "mkdir e 01777", "open 0 a bc 0666", "chmod a 0666",
             "&1 open 0 a b", "&2 open 0 a b", "&2 become 4001:4001,4003"]
    while len(lines) < length:
        call = r.choices(calls, weights)[0][1]()
        if call.startswith(open_files) and r.random() < 0.4:
            lines.append(f"&{r.randrange(1, 3)} {call}")
        elif r.random() < 0.004:
            lines.append("kill 1")
        elif r.random() < 0.002:
            lines += waiting()
        else:
            # A stranger's chown to nobody, and a value set again, are answered otherwise: see docs/posix.md.
            lines.append(call if call.endswith(" -1 -1") else r.choice(USERS) + call)
    return lines


class Pair:
    """Runs scripts on both file systems at once."""

    def __init__(self, probe, subject, oracle):
        self.probe, self.places = os.path.abspath(probe), (subject, oracle)

    def printouts(self, lines):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            directories = [tempfile.mkdtemp(dir=place) for place in self.places]
            try:
                for directory in directories:
                    os.chmod(directory, 0o755)
                # The script comes open: a user of it need not be able to reach it, nor the probe.
                runs = [subprocess.Popen([self.probe, file.name, d], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                        for d in directories]
                outputs = [run.communicate(timeout=600)[0].decode("latin-1").splitlines() for run in runs]
                ends = [f"exit {run.returncode}" for run in runs]
                return [output + [end] for output, end in zip(outputs, ends)]
            finally:
                for directory in directories:
                    shutil.rmtree(directory, ignore_errors=True)

    def difference(self, lines):
        """The first lines that differ, or nothing; and how many lines there were."""
        subject, oracle = self.printouts(lines)
        for mine, theirs in zip(subject, oracle):
            if mine != theirs:
                return mine, theirs
        return None if len(subject) == len(oracle) else (subject[-1], oracle[-1])

    def reduced(self, lines):
        """The shortest script that delta debugging finds and that still makes a difference."""
        pieces = 2
        while len(lines) > 1:
            size = max(1, len(lines) // pieces)
            for start in range(0, len(lines), size):
                rest = lines[:start] + lines[start + size:]
                if rest and self.difference(rest):
                    lines, pieces = rest, max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    return lines
                pieces = min(len(lines), pieces * 2)
        return lines


class Killer(threading.Thread):
    """Kills the daemon of a mount at random moments."""

    def __init__(self, o3fs, place):
        super().__init__(daemon=True)
        while not os.path.ismount(place):
            place = os.path.dirname(os.path.abspath(place))
        self.o3fs, self.mountpoint, self.kills, self.random = o3fs, place, 0, random.Random(place)
        self.start()

    def run(self):
        while True:
            time.sleep(self.random.uniform(0.05, 1.5))
            status = subprocess.run([self.o3fs, "status", self.mountpoint, "--json"], capture_output=True)
            if status.returncode == 0:
                os.kill(json.loads(status.stdout)["daemon"]["pid"], signal.SIGKILL)
                self.kills += 1


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("probe")
    options.add_argument("subject")
    options.add_argument("oracle")
    options.add_argument("--operations", type=int, default=2000)
    options.add_argument("--length", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=1, help="scripts run at once")
    options.add_argument("--kill", metavar="O3FS", help="kill the daemon of SUBJECT's mount now and then")
    options.add_argument("--script", action="append", default=[])
    chosen = options.parse_args()
    # A call that meets a daemon's death is answered by the next one, which a busy machine starts late.
    if chosen.kill:
        os.environ["POSIXPROBE_WAITS_MS"] = "3000"
    pair = Pair(chosen.probe, chosen.subject, chosen.oracle)
    killer = Killer(chosen.kill, chosen.subject) if chosen.kill else None

    def check(title, lines):
        difference = pair.difference(lines)
        if not difference:
            return True
        short = pair.reduced(lines)
        mine, theirs = pair.difference(short) or difference
        print(f"{title} differs; reduced to:", *short, "--- subject", mine, "--- oracle", theirs, sep="\n", flush=True)
        return False

    agreed, done, seed = True, 0, chosen.seed
    for path in chosen.script:
        with open(path) as file:
            lines = [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
        agreed = check(path, lines) and agreed
        done += len(lines)
    # The tick that each step waits for is most of its time: several scripts at once take no longer.
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        while agreed and not chosen.script and done < chosen.operations:
            seeds = range(seed, seed + chosen.jobs)
            agreed = all(list(pool.map(lambda s: check(f"seed {s}", script(s, chosen.length)), seeds)))
            done, seed = done + chosen.length * chosen.jobs, seed + chosen.jobs
    if killer:
        print(f"{killer.kills} daemons killed")
    print(f"{done} operations on both, seeds {chosen.seed} to {seed - 1}" if not chosen.script else f"{done} operations on both")
    sys.exit(0 if agreed else 1)


main()
