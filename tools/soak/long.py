#!/usr/bin/env python3
"""Works on a mount for hours with the same amount of data, and watches that nothing grows.

    tools/soak/long.py [--minutes 120] [--cycle 60] [--daemon-kill 30] [--worker-kill 1] [--dir DIR]
                       [--samples FILE] [--mount "OPTIONS"]

Each cycle (seconds) does the same things once: fio with verification, a commit, a fsck and now and then a gc in a git
repository, inserts, deletes and integrity checks in a sqlite3 database, a tree that is made, compared, renamed and
removed, and files that are open while they are unlinked. Meanwhile a worker is killed every --worker-kill minutes, and
the daemon every --daemon-kill minutes (0: never).

After each cycle it notes what processes hold (resident memory, descriptors, threads), slabs of disaggregated memory,
files and bytes of the store, and what the mount says it holds. At the end the last quarter of the samples is held
against the second one. Exit status 0: no program failed, nothing grew, and `o3fs check` finds the store sound.
"""
import argparse, json, os, random, shutil, signal, statistics, subprocess, sys, tempfile, time

root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--cycle", type=float, default=60, help="seconds from one cycle's begin to the next one's")
    parser.add_argument("--daemon-kill", type=float, default=30, help="minutes between kills of the daemon; 0: none")
    parser.add_argument("--worker-kill", type=float, default=1, help="minutes between kills of a worker; 0: none")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--samples", help="file for the samples, a line of JSON each")
    parser.add_argument("--mount", default="--dm-size 256M --memtable-size 16M --max-size 2G --max-inodes 100000", help="options of o3fs mount")
    return parser.parse_args()


class Failure(Exception):
    pass


class Soak:
    def __init__(self, options):
        self.options = options
        self.o3fs = os.environ.get("O3FS_BINARY", os.path.join(root, ".build/release/o3fs"))
        self.work = tempfile.mkdtemp(prefix="o3fs-long-", dir=options.dir)
        self.mnt, self.store = os.path.join(self.work, "mnt"), os.path.join(self.work, "store")
        self.random = random.Random(1)
        self.rows = 0
        os.mkdir(self.mnt)

    def run(self, *command, cwd=None, text=None):
        done = subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def status(self):
        return json.loads(self.run(self.o3fs, "status", self.mnt, "--json"))

    # The work of a cycle.

    def fio(self, number):
        self.run(
            "fio", "--name=soak", f"--directory={self.mnt}", "--size=16m", "--numjobs=2", "--verify=crc32c",
            "--verify_fatal=1", "--verify_dump=0", "--verify_backlog=256", "--ioengine=psync", "--rw=randrw",
            "--bsrange=4k-128k", f"--direct={number % 2}", "--fallocate=none", "--group_reporting", "--minimal",
            cwd=self.work)

    def git(self, number):
        repository = os.path.join(self.mnt, "repository")
        if number % 50 == 0:
            # As much history in each fifty cycles.
            shutil.rmtree(repository, ignore_errors=True)
            self.run("git", "init", "-q", repository)
        git = ("git", "-C", repository, "-c", "user.email=a@b", "-c", "user.name=a")
        with open(os.path.join(repository, f"file{number % 10}"), "w") as file:
            file.write("\n".join(str(number * i) for i in range(500)))
        self.run(*git, "add", "-A")
        self.run(*git, "commit", "-qm", str(number))
        self.run(*git, "fsck", "--strict", "--no-dangling")
        if number % 10 == 9:
            self.run(*git, "gc", "-q", "--prune=now")

    def sqlite(self, number):
        database = os.path.join(self.mnt, "db")
        mode = "wal" if number % 2 else "delete"
        script = f"pragma journal_mode={mode}; create table if not exists t(n integer primary key, text);\n"
        for _ in range(20):
            self.rows += 1
            script += f"insert into t values({self.rows}, hex(randomblob(500)));\n"
        script += f"delete from t where n <= {self.rows - 1000}; pragma integrity_check; select count(*) from t;"
        found = self.run("sqlite3", database, text=script).split()
        if found[-2:] != ["ok", str(min(self.rows, 1000))]:
            raise Failure(f"sqlite3 in cycle {number}: {found[-2:]}")

    def tree(self, number):
        source, copy, moved = "/usr/include/linux", os.path.join(self.mnt, "tree"), os.path.join(self.mnt, "moved")
        self.run("cp", "-a", source, copy)
        self.run("diff", "-r", source, copy)
        os.rename(copy, moved)
        self.run("rm", "-r", moved)

    def unlinked(self, number):
        files = []
        for index in range(20):
            path = os.path.join(self.mnt, f"unlinked{index}")
            file = open(path, "w+b")
            os.unlink(path)
            file.write(bytes([index]) * 100_000)
            file.flush()
            files.append(file)
        time.sleep(0.2)
        for index, file in enumerate(files):
            file.seek(0)
            if file.read() != bytes([index]) * 100_000:
                raise Failure(f"an unlinked file in cycle {number} has other contents")
            file.close()

    # What is watched.

    def process(self, name, pid, sample):
        try:
            with open(f"/proc/{pid}/status") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            # Shared memory is counted by its slabs.
            sample[f"{name} private MiB"] = int(fields["RssAnon"].split()[0]) / 1024
            sample[f"{name} threads"] = int(fields["Threads"])
            sample[f"{name} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        except (FileNotFoundError, ProcessLookupError, KeyError):
            pass  # Killed a moment ago.

    def sample(self):
        status = self.status()
        sample = {"time": time.time()}
        self.process("daemon", status["daemon"]["pid"], sample)
        self.process("supervisor", status["supervisor"]["pid"], sample)
        for worker in status["workers"][:1]:
            self.process("worker", worker["pid"], sample)
        sample["workers"] = len(status["workers"])
        sample["slabs in use"] = status["dm"]["slabs"] - status["dm"]["free_slabs"]
        count = size = 0
        for directory, _, names in os.walk(self.store):
            for name in names:
                try:
                    size += os.lstat(os.path.join(directory, name)).st_size
                    count += 1
                except FileNotFoundError:
                    pass
        sample["files of the store"], sample["MiB of the store"] = count, size / (1 << 20)
        usage = os.statvfs(self.mnt)
        sample["MiB in files"] = (usage.f_blocks - usage.f_bfree) * usage.f_frsize / (1 << 20)
        sample["inodes"] = usage.f_files - usage.f_ffree
        return sample

    def soak(self):
        options = self.options
        self.run(self.o3fs, "mount", self.store, self.mnt, "--max-restarts", "1000000", *options.mount.split())
        samples, begin, number = [], time.time(), 0
        kills = {"daemon": 0, "worker": 0}
        due = {"daemon": options.daemon_kill * 60, "worker": options.worker_kill * 60}
        while time.time() - begin < options.minutes * 60:
            started = time.time()
            for step in (self.fio, self.git, self.sqlite, self.tree, self.unlinked):
                for kind, every in (("daemon", options.daemon_kill), ("worker", options.worker_kill)):
                    if every and time.time() - begin >= due[kind]:
                        status = self.status()
                        victims = [status["daemon"]] if kind == "daemon" else status["workers"]
                        if victims:
                            os.kill(self.random.choice(victims)["pid"], signal.SIGKILL)
                            kills[kind] += 1
                        due[kind] += every * 60
                step(number)
            number += 1
            time.sleep(max(0, options.cycle - (time.time() - started)))
            samples.append(self.sample())
            if options.samples:
                with open(options.samples, "a") as file:
                    file.write(json.dumps(samples[-1]) + "\n")
            print(f"\r{(time.time() - begin) / 60:.0f} of {options.minutes:.0f} minutes, {number} cycles", end="", file=sys.stderr)
        print(file=sys.stderr)
        print(f"{number} cycles in {(time.time() - begin) / 60:.0f} minutes; daemon killed {kills['daemon']} times, workers {kills['worker']} times")
        return samples

    def grown(self, samples):
        """Prints the table; the names of what has grown."""
        quarter = len(samples) // 4
        if quarter < 3:
            raise Failure(f"{len(samples)} samples are too few to see growth")
        print("| | second quarter | last quarter | greatest |\n|---|---|---|---|")
        bad = []
        for name in samples[-1]:
            if name == "time":
                continue
            early = [sample[name] for sample in samples[quarter:2 * quarter] if name in sample]
            late = [sample[name] for sample in samples[-quarter:] if name in sample]
            if not early or not late:
                continue
            a, b = statistics.median(early), statistics.median(late)
            worst = max(sample[name] for sample in samples if name in sample)
            print(f"| {name} | {a:.0f} | {b:.0f} | {worst:.0f} |")
            # The tree breathes with its compactions, memory with what is cached.
            slack = {"threads": 1, "descriptors": 8, "workers": 1, "inodes": 100}.get(name.split()[-1], 24)
            if b > a * 1.15 + slack:
                bad.append(name)
        return bad

    def finish(self):
        self.run(self.o3fs, "umount", self.mnt)
        self.run(self.o3fs, "check", self.store)
        print("o3fs check: sound")
        shutil.rmtree(self.work)


def main():
    options = arguments()
    soak = Soak(options)
    try:
        samples = soak.soak()
        bad = soak.grown(samples)
        soak.finish()
    except Failure as failure:
        sys.exit(f"long.py: {failure}\nleft for inspection: {soak.work}")
    if bad:
        sys.exit(f"long.py: grown: {', '.join(bad)}")
    print("nothing grew")


main()
