#!/usr/bin/env python3
"""Programs under simulated cuts of power: what they were told is stored must be there, and consistent.

    tools/soak/power.py [--workload sqlite|postgresql] [--seconds 5] [--cuts 30] [--seed N] [--o3fs BINARY] [--dir DIR]

A daemon built with -DFAULT_POINTS keeps a journal of all that it does to its store (O3LSM_JOURNAL) while the workload
commits transactions. Then the power is cut N times, anywhere in that journal: the store is made as the medium may have
it. Bytes are certain once their file was synced, names once their directory was; of the rest all is lost, or nothing, or
only bytes, or only names, or any part, torn at 512 bytes. Memory is gone. The store is mounted, and every transaction
whose commit had returned by then must be there, none that had not begun, and the program's own checks and `o3fs check`
must be content. Without --o3fs the daemon is built. PostgreSQL needs root. Exit status 1 if anything was wrong.
"""
import argparse, bisect, glob, os, random, shutil, sqlite3, struct, subprocess, sys, tempfile, threading, time

root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
KINDS = ["", "createDirectory", "create", "reuse", "write", "sync", "rename", "unlink", "link", "removeDirectory",
         "syncDirectory"]
HEADER = struct.Struct("<BQQII")
SECTOR = 512
LOSSES = ["everything", "nothing", "bytes", "names", "torn", "shuffled"]


class Failure(Exception):
    pass


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


class File:
    def __init__(self):
        self.durable, self.pending = bytearray(), []


class Medium:
    """What the operations of a journal, applied one by one, may leave behind."""

    def __init__(self, store):
        self.store = store
        self.files = {}  # Number of a file in the journal to the file.
        self.names = {}  # Path to file: as running programs see it.
        self.directories = {}  # Path to names that are certain.
        self.pending = {}  # Path of a directory to its changes that are not.
        self.unsynced = set()  # Directories whose own name is not.

    def apply(self, kind, number, offset, first, second):
        if kind == "write":
            self.files[number].pending.append((offset, first))
            return
        if kind == "sync":
            file = self.files[number]
            for write in file.pending:
                put(file.durable, *write)
            file.pending = []
            return
        path, other = os.fsdecode(first), os.fsdecode(second)
        directory, name = os.path.split(path)
        changes = self.pending.setdefault(directory, [])
        if kind == "createDirectory":
            if path not in self.directories:
                self.directories[path] = {}
                self.unsynced.add(path)
        elif kind == "create":
            if path in self.names:
                self.names[path].pending.append((None, b""))
            else:
                self.names[path] = File()
                changes.append(("link", name, self.names[path]))
            self.files[number] = self.names[path]
        elif kind == "reuse":
            self.files[number] = self.names[path]
        elif kind == "rename":
            self.names[other] = self.names.pop(path)
            if os.path.dirname(other) != directory:
                raise Failure(f"a rename between directories: {path} to {other}")
            changes.append(("rename", name, os.path.basename(other)))
        elif kind == "link":
            self.names[other] = self.names[path]
            self.pending.setdefault(os.path.dirname(other), []).append(
                ("link", os.path.basename(other), self.names[path]))
        elif kind == "unlink":
            self.names.pop(path, None)
            changes.append(("unlink", name, None))
        elif kind == "removeDirectory":
            self.directories.pop(path, None)
        elif kind == "syncDirectory":
            self.unsynced = {other for other in self.unsynced if os.path.dirname(other) != path}
            for change in self.pending.pop(path, []):
                rename(self.directories.setdefault(path, {}), change)

    def survive(self, loss, chance, place):
        """Writes what is left after a loss into the directory `place`."""
        lost = set()
        for path, certain in sorted(self.directories.items()):
            if os.path.dirname(path) in lost or path in self.unsynced and (
                    loss in ("everything", "names") or loss in ("torn", "shuffled") and chance.random() < 0.5):
                lost.add(path)
                continue
            names, changes = dict(certain), self.pending.get(path, [])
            if loss in ("everything", "names"):
                changes = []
            elif loss == "torn":
                changes = changes[:chance.randrange(len(changes) + 1)]
            elif loss == "shuffled":
                changes = [change for change in changes if chance.random() < 0.5]
            for change in changes:
                rename(names, change)
            target = os.path.join(place, os.path.relpath(path, self.store))
            os.makedirs(target, mode=0o700, exist_ok=True)
            for name, file in names.items():
                with open(os.path.join(target, name), "wb") as out:
                    os.fchmod(out.fileno(), 0o600)
                    out.write(surviving(file, loss, chance))


def put(contents, offset, data):
    if offset is None:
        contents.clear()
        return
    if len(contents) < offset:
        contents.extend(bytes(offset - len(contents)))
    contents[offset:offset + len(data)] = data


def surviving(file, loss, chance):
    contents = bytearray(file.durable)
    for offset, data in file.pending:
        if loss in ("everything", "bytes"):
            continue
        choice = chance.randrange(4) if loss in ("torn", "shuffled") else 1
        if choice == 0:
            continue
        if choice == 1 or offset is None:
            put(contents, offset, data)
            continue
        torn = offset + chance.randrange(len(data) + 1)
        at = offset
        while at < offset + len(data):
            end = min((at // SECTOR + 1) * SECTOR, offset + len(data))
            if at // SECTOR < torn // SECTOR if choice == 2 else chance.random() < 0.5:
                put(contents, at, data[at - offset:end - offset])
            at = end
    return contents


def rename(names, change):
    kind, name, other = change
    if kind == "link":
        names[name] = other
    elif kind == "unlink":
        names.pop(name, None)
    elif name in names:
        names[other] = names.pop(name)


def records(path):
    """The journal's operations, each with the length of the journal up to its end."""
    with open(path, "rb") as journal:
        at = 0
        while True:
            header = journal.read(HEADER.size)
            if len(header) < HEADER.size:
                return
            kind, number, offset, first, second = HEADER.unpack(header)
            body = journal.read(first + second)
            if len(body) < first + second:
                return
            at += HEADER.size + first + second
            yield at, (KINDS[kind], number, offset, body[:first], body[first:])


class History:
    """Of one client: how long the journal was when each transaction began and when its commit had returned."""

    def __init__(self, journal):
        self.journal, self.begun, self.done = journal, [], []

    def length(self):
        return os.path.getsize(self.journal)

    def check(self, what, cut, found):
        """`found` transactions are there after a cut at `cut`."""
        least, most = bisect.bisect_right(self.done, cut), bisect.bisect_right(self.begun, cut)
        if not least <= found <= most:
            raise Failure(f"{what}: {found} transactions, not {least} to {most}")


def payload(client, number):
    return random.Random(f"{client} {number}").randbytes(random.Random(number).randrange(50, 3000)).hex()


class SQLite:
    """Databases in the journal modes that matter, a client each; every commit is synced."""

    def __init__(self, mnt, journal):
        self.modes = ["WAL", "DELETE", "TRUNCATE"]
        self.histories = [History(journal) for _ in self.modes]
        self.errors = []

    def options(self):
        return []

    def client(self, mnt, index, deadline):
        try:
            history, mode = self.histories[index], self.modes[index]
            database = sqlite3.connect(f"{mnt}/{mode}.db", isolation_level=None)
            database.execute(f"PRAGMA journal_mode={mode}")
            database.execute("PRAGMA synchronous=EXTRA")
            database.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, data TEXT)")
            database.execute("CREATE INDEX i ON t(data)")
            database.execute("CREATE TABLE total(n INTEGER)")
            database.execute("INSERT INTO total VALUES(0)")
            while time.time() < deadline:
                number = len(history.begun) + 1
                history.begun.append(history.length())
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO t VALUES(?, ?)", (number, payload(index, number)))
                database.execute("UPDATE total SET n = n + 1")
                database.execute("COMMIT")
                history.done.append(history.length())
            database.close()
        except Exception as error:
            self.errors.append(f"client {index}: {error!r}")

    def work(self, mnt, seconds):
        deadline = time.time() + seconds
        threads = [threading.Thread(target=self.client, args=(mnt, n, deadline)) for n in range(len(self.modes))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if self.errors:
            raise Failure("; ".join(self.errors))

    def check(self, mnt, cut):
        for index, mode in enumerate(self.modes):
            path = f"{mnt}/{mode}.db"
            if not os.path.exists(path):
                self.histories[index].check(mode, cut, 0)
                continue
            database = sqlite3.connect(path)
            found = [row[0] for row in database.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                raise Failure(f"{mode}: integrity_check: {found[:3]}")
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_schema")}
            rows = list(database.execute("SELECT n, data FROM t ORDER BY n")) if "t" in tables else []
            totals = list(database.execute("SELECT n FROM total")) if "total" in tables else []
            self.histories[index].check(mode, cut, len(rows))
            if rows and totals != [(len(rows),)]:
                raise Failure(f"{mode}: the total is {totals}, rows {len(rows)}")
            for number, (n, data) in enumerate(rows, 1):
                if n != number or data != payload(index, number):
                    raise Failure(f"{mode}: row {number} is not what was written")
            database.close()


class PostgreSQL:
    """A cluster with checksums and three clients. Its own recovery, pg_amcheck and every row."""

    clients = 3

    def __init__(self, mnt, journal):
        self.histories = [History(journal) for _ in range(self.clients)]
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found or os.getuid() != 0:
            raise SystemExit("PostgreSQL needs Debian's package postgresql, and root")
        self.bin = found[-1]
        self.socket = tempfile.mkdtemp(prefix="o3fs-power-")
        os.chmod(self.socket, 0o777)

    def options(self):
        return ["-o", "allow_other"]

    def user(self, *command):
        return ["runuser", "-u", "postgres", "--", *command]

    def start(self, mnt):
        # The shell's redirection keeps the server from holding our pipes open.
        run(*self.user("sh", "-c", f"exec {self.bin}/pg_ctl -D {mnt}/data -w -t 60 -o '-c listen_addresses= -k {self.socket}' "
                       f"-l {self.socket}/log start >/dev/null 2>&1"), cwd="/")

    def stop(self, mnt, mode):
        run(*self.user(f"{self.bin}/pg_ctl", "-D", f"{mnt}/data", "-w", "-m", mode, "stop"), cwd="/")

    def psql(self, command):
        return run(*self.user("psql", "-h", self.socket, "-XAtq", "-c", command, "postgres"), cwd="/")

    def client(self, index, deadline):
        history = self.histories[index]
        process = subprocess.Popen(
            self.user("psql", "-h", self.socket, "-XAt", "postgres"), cwd="/", text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while time.time() < deadline:
            number = len(history.begun) + 1
            history.begun.append(history.length())
            process.stdin.write(f"INSERT INTO t{index} VALUES({number}, '{payload(index, number)}');\n")
            answer = process.stdout.readline()
            if answer != "INSERT 0 1\n":
                self.error = f"client {index}: {answer}"
                break
            history.done.append(history.length())
        process.stdin.close()
        process.wait()

    def work(self, mnt, seconds):
        self.error = None
        os.mkdir(f"{mnt}/data", 0o700)
        shutil.chown(f"{mnt}/data", "postgres", "postgres")
        run(*self.user(f"{self.bin}/initdb", "-D", f"{mnt}/data", "--data-checksums", "--auth=trust"), cwd="/")
        with open(f"{mnt}/data/postgresql.conf", "a") as conf:
            # Checkpoints, new segments and their removal all the time.
            conf.write("checkpoint_timeout = 30s\nmax_wal_size = 32MB\nmin_wal_size = 32MB\nautovacuum_naptime = 1s\n")
        self.start(mnt)
        for index in range(self.clients):
            self.psql(f"CREATE TABLE t{index}(n integer PRIMARY KEY, data text)")
        self.psql("CREATE EXTENSION amcheck")
        self.ready = self.histories[0].length()
        deadline = time.time() + seconds
        threads = [threading.Thread(target=self.client, args=(n, deadline)) for n in range(self.clients)]
        [thread.start() for thread in threads]
        while any(thread.is_alive() for thread in threads):
            time.sleep(1)
            self.psql("CHECKPOINT")
        self.stop(mnt, "fast")
        if self.error:
            raise Failure(self.error)

    def check(self, mnt, cut):
        if cut < self.ready:
            return
        # After a reboot nobody has the number of the server that was cut off; here it may be taken.
        if os.path.exists(f"{mnt}/data/postmaster.pid"):
            os.unlink(f"{mnt}/data/postmaster.pid")
        try:
            self.start(mnt)
        except Failure:
            with open(f"{self.socket}/log") as log:
                raise Failure("the server does not start: " + "".join(log.readlines()[-15:]))
        try:
            for index, history in enumerate(self.histories):
                rows = [row.split("|") for row in self.psql(f"SELECT n, data FROM t{index} ORDER BY n").splitlines()]
                history.check(f"t{index}", cut, len(rows))
                for number, (n, data) in enumerate(rows, 1):
                    if int(n) != number or data != payload(index, number):
                        raise Failure(f"t{index}: row {number} is not what was written")
            run(*self.user(f"{self.bin}/pg_amcheck", "-h", self.socket, "--heapallindexed", "postgres"), cwd="/")
        finally:
            self.stop(mnt, "immediate")


def build(place):
    print("building a daemon with fault points", flush=True)
    run("swift", "build", "-c", "release", "--product", "o3fs", "--build-path", place, "-Xswiftc", "-DFAULT_POINTS", cwd=root)
    return os.path.join(place, "release/o3fs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seconds", type=float, default=5, help="how long the workload runs")
    parser.add_argument("--cuts", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--o3fs", help="built with -DFAULT_POINTS")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--keep", action="store_true", help="keep the first store that was wrong")
    arguments = parser.parse_args()
    work = tempfile.mkdtemp(prefix="o3fs-power-", dir=arguments.dir)
    os.chmod(work, 0o755)
    mnt, store, journal = f"{work}/mnt", f"{work}/store", f"{work}/journal"
    os.mkdir(mnt)
    o3fs = arguments.o3fs or build(f"{work}/build")
    workload = {"sqlite": SQLite, "postgresql": PostgreSQL}[arguments.workload](mnt, journal)
    # Small memtables and tables: many flushes and compactions in little time.
    mount = ["--no-survive", "--dm-size", "64M", "--memtable-size", "2M", "--workers", "0", *workload.options()]
    bad, kept = 0, False
    started = time.time()
    try:
        run(o3fs, "mount", store, mnt, *mount, env={**os.environ, "O3LSM_JOURNAL": journal})
        workload.work(mnt, arguments.seconds)
        run(o3fs, "umount", mnt)
        total = os.path.getsize(journal)
        if total == 0:
            raise Failure("the daemon keeps no journal: build it with -DFAULT_POINTS")
        done = sum(len(history.done) for history in workload.histories)
        ends = [end for end, _ in records(journal)]
        chance = random.Random(arguments.seed)
        cuts = sorted(chance.sample(range(len(ends)), min(arguments.cuts, len(ends))))
        print(f"{arguments.workload}: {done} transactions, {len(ends)} operations of storage, {total >> 20} MiB of journal",
              flush=True)
        medium, number = Medium(store), 0
        for index, (end, operation) in enumerate(records(journal)):
            medium.apply(*operation)
            if number == len(cuts) or index != cuts[number]:
                continue
            loss = LOSSES[number % len(LOSSES)]
            number += 1
            survivor = f"{work}/survivor"
            medium.survive(loss, random.Random(f"{arguments.seed} {index}"), survivor)
            try:
                if os.path.isdir(survivor):
                    run(o3fs, "mount", survivor, mnt, *mount)
                    try:
                        workload.check(mnt, end)
                    finally:
                        run(o3fs, "umount", mnt)
                    run(o3fs, "check", survivor)
                else:
                    for history in workload.histories:
                        history.check("nothing is there", end, 0)
            except Failure as failure:
                bad += 1
                print(f"cut after operation {index} of {len(ends)} ({loss}): {failure}", flush=True)
                if arguments.keep and not kept:
                    kept = True
                    shutil.copytree(survivor, f"{work}/wrong")
            shutil.rmtree(survivor, ignore_errors=True)
            if sys.stderr.isatty():
                print(f"\r{number} of {len(cuts)} cuts, {bad} bad ", end="", file=sys.stderr, flush=True)
        print(f"{arguments.workload}: {len(cuts)} cuts, {bad} bad, {time.time() - started:.0f} s")
    except Failure as failure:
        bad += 1
        print(failure, file=sys.stderr)
    finally:
        subprocess.run(["umount", "-l", mnt], capture_output=True)
        if arguments.keep and bad:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if bad else 0)


main()
