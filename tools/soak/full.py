#!/usr/bin/env python3
"""Fills what a store lives on to the last byte under load, gives room back, and demands that work goes on.

    tools/soak/full.py [--rounds 5] [--only disk|stranger|nodes|quota|inodes|memory] [--seed N] [--kill] [--dir DIR]

disk:     ext4 of 320 MB in a file, filled through the mount by four writers.
stranger: the same; a program beside the mount takes the disk's last byte while they write.
nodes:    ext4 with 64 inodes, all of which a program beside the mount takes while they write: the store can make no file,
          for a log, a table or a manifest. It gives them back after the removal.
quota:    the store's own limit, --max-size.
inodes:   the store's own limit, --max-inodes.
memory:   little disaggregated memory before slow storage: writers wait, and nothing may fail.

Writers know each byte of each file whose close (or fsync) returned. After ENOSPC they stop; all is read and compared;
then half of the files go, and within a minute a file must be written whole again. With --kill the daemon dies while
everything is full. At the end, `o3fs check` and another mount. Needs root, for the loop device.
"""
import argparse, errno, hashlib, json, os, random, shutil, signal, subprocess, sys, tempfile, threading, time

root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
o3fs = os.environ.get("O3FS_BINARY", os.path.join(root, ".build/release/o3fs"))
full = (errno.ENOSPC, errno.EDQUOT)


class Failure(Exception):
    pass


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


class Writers:
    """Four threads, each with files of its own; `kept` has what must be there: name to (seed, length)."""

    def __init__(self, directory, sizes, seed):
        self.directory, self.sizes, self.seed = directory, sizes, seed
        self.kept, self.errors, self.number = {}, [], 0
        self.lock = threading.Lock()

    def contents(self, seed, length):
        return random.Random(seed).randbytes(length)

    def write(self, name, seed, length, sync):
        """True when the file is whole; False when something was full."""
        path = os.path.join(self.directory, name)
        try:
            with open(path, "wb", buffering=0) as file:
                data, done = self.contents(seed, length), 0
                while done < length:
                    done += file.write(data[done:done + 131072])
                if sync:
                    os.fsync(file.fileno())
            return True
        except OSError as error:
            if error.errno not in full:
                raise Failure(f"{name}: {error}")
            try:
                os.unlink(path)  # Removal must work on what is full.
            except FileNotFoundError:
                pass
            return False

    def work(self, thread, until, deadline):
        generator = random.Random(f"{self.seed} {thread} {until}")
        try:
            while time.time() < deadline:
                with self.lock:
                    self.number += 1
                    number = self.number
                length = generator.randrange(*self.sizes)
                name, seed = f"file{number}", f"{self.seed} {number}"
                if not self.write(name, seed, length, generator.random() < 0.2):
                    if until == "full":
                        return
                    raise Failure(f"{name}: full, where nothing may be")
                with self.lock:
                    self.kept[name] = (seed, length)
        except Failure as failure:
            self.errors.append(failure)

    def go(self, until, seconds):
        threads = [threading.Thread(target=self.work, args=(i, until, time.time() + seconds)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def compare(self, when):
        names = set(os.listdir(self.directory))
        if names != set(self.kept):
            raise Failure(f"{when}: lost {sorted(set(self.kept) - names)[:3]}, strange {sorted(names - set(self.kept))[:3]}")
        for name, (seed, length) in self.kept.items():
            with open(os.path.join(self.directory, name), "rb") as file:
                if file.read() != self.contents(seed, length):
                    raise Failure(f"{when}: {name} has other contents")

    def remove_half(self, generator):
        for name in sorted(self.kept):
            if generator.random() < 0.5:
                os.unlink(os.path.join(self.directory, name))
                del self.kept[name]


class Round:
    disks = ("disk", "stranger", "nodes")

    def __init__(self, kind, options):
        self.kind, self.options = kind, options
        self.work = tempfile.mkdtemp(prefix="o3fs-full-", dir=options.dir)
        self.disk, self.mnt = os.path.join(self.work, "disk"), os.path.join(self.work, "mnt")
        os.mkdir(self.disk)
        os.mkdir(self.mnt)
        self.mounts = ["--dm-size", "64M", "--memtable-size", "4M", "--max-restarts", "1000000"]
        self.mounts += {
            "quota": ["--max-size", "64M"], "inodes": ["--max-inodes", "2000"],
            "memory": ["--dm-size", "24M", "--storage-bandwidth", "8M"]}.get(kind, [])

    def mount(self):
        run(o3fs, "mount", os.path.join(self.disk, "store"), self.mnt, *self.mounts)

    def prepare(self):
        if self.kind in self.disks:
            image = os.path.join(self.work, "image")
            with open(image, "wb") as file:
                file.truncate(320 << 20)
            few = ["-N", "64"] if self.kind == "nodes" else []
            run("mkfs.ext4", "-q", "-m", "0", *few, image)
            run("mount", "-o", "loop", image, self.disk)
        self.mount()
        self.files = os.path.join(self.mnt, "files")
        os.mkdir(self.files)

    def stranger(self, stop):
        """Takes the disk's last byte again and again."""
        path = os.path.join(self.disk, "stranger")
        with open(path, "wb", buffering=0) as file:
            while not stop.is_set():
                for size in (1 << 20, 4096, 512, 1):
                    try:
                        while not stop.is_set():
                            file.write(bytes(size))
                    except OSError:
                        pass
                time.sleep(0.01)
        os.unlink(path)

    def node_stranger(self, stop):
        """Takes the disk's last inode again and again."""
        directory, number = os.path.join(self.disk, "strangers"), 0
        os.mkdir(directory)
        while not stop.is_set():
            try:
                while not stop.is_set():
                    open(os.path.join(directory, str(number)), "x").close()
                    number += 1
            except OSError as error:
                if error.errno not in full:
                    raise
                self.nodes_taken = True
            time.sleep(0.001)
        shutil.rmtree(directory)

    def go(self):
        options = self.options
        generator = random.Random(options.seed)
        sizes = (0, 3000) if self.kind == "inodes" else (0, 2_000_000)
        writers = Writers(self.files, sizes, options.seed)
        waited = []
        for number in range(options.rounds):
            stop = threading.Event()
            stranger = threading.Thread(target=self.node_stranger if self.kind == "nodes" else self.stranger, args=(stop,))
            if self.kind in ("stranger", "nodes"):
                stranger.start()
            try:
                if self.kind == "memory":
                    writers.go("never", 20)
                else:
                    writers.go("full", 600)
                if options.kill:
                    os.kill(json.loads(run(o3fs, "status", self.mnt, "--json"))["daemon"]["pid"], signal.SIGKILL)
                writers.compare(f"full, round {number}")
            finally:
                stop.set()
                if stranger.is_alive():
                    stranger.join()
            kept = len(writers.kept)
            writers.remove_half(generator)
            began = time.time()
            while True:
                with writers.lock:
                    writers.number += 1
                name, seed, length = f"file{writers.number}", f"{options.seed} {writers.number}", sizes[1]
                if writers.write(name, seed, length, True):
                    writers.kept[name] = (seed, length)
                    break
                if time.time() - began > 60:
                    raise Failure(f"round {number}: still full a minute after half of the files went\n" + run(o3fs, "status", self.mnt))
                time.sleep(0.05)
            waited.append(time.time() - began)
            writers.compare(f"after removal, round {number}")
            print(f"{self.kind} round {number}: full with {kept} files; written again {waited[-1]:.2f} s after the removal", flush=True)
        run(o3fs, "umount", self.mnt)
        run(o3fs, "check", os.path.join(self.disk, "store"))
        self.mount()
        writers.compare("mounted again")
        run(o3fs, "umount", self.mnt)

    def clean(self):
        if self.kind in self.disks:
            run("umount", self.disk)
        shutil.rmtree(self.work)


def main():
    kinds = ("disk", "stranger", "nodes", "quota", "inodes", "memory")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=kinds)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true", help="kill the daemon while everything is full")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    options = parser.parse_args()
    for kind in [options.only] if options.only else kinds:
        work = Round(kind, options)
        try:
            work.prepare()
            work.go()
            work.clean()
        except Failure as failure:
            sys.exit(f"full.py, {kind}: {failure}\nleft for inspection: {work.work}")
    print("all sound")


main()
