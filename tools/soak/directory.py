#!/usr/bin/env python3
"""A large directory that is read while its entries come and go.

  directory.py DIRECTORY [--entries N] [--changes N] [--seed S]

Makes N entries (1,000,000) in a new directory of DIRECTORY, then reads it, in pieces, while a thread removes and makes
others. Every entry that was there throughout must be seen once, none twice; a position that was told must lead back to
where it was told. Prints what it found and how long it took; exit status 1 when something was not so.
"""
import argparse, ctypes, os, random, sys, tempfile, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.fdopendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.fdopendir.argtypes = [ctypes.c_int]
libc.readdir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class Listing:
    """opendir(3) and its kin, of which Python tells no positions."""

    def __init__(self, path):
        self.stream = libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    def read(self):
        """The next name, or nothing at the end."""
        while True:
            entry = libc.readdir(self.stream)
            if not entry:
                return None
            name = ctypes.string_at(entry + 19)
            if name not in (b".", b".."):
                return name

    def tell(self):
        return libc.telldir(self.stream)

    def seek(self, position):
        libc.seekdir(self.stream, position)

    def close(self):
        libc.closedir(self.stream)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory")
    options.add_argument("--entries", type=int, default=1_000_000)
    options.add_argument("--changes", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    place = tempfile.mkdtemp(dir=chosen.directory)
    chance = random.Random(chosen.seed)

    start = time.monotonic()
    for number in range(chosen.entries):
        os.mknod(f"{place}/stays-{number}")
        if number % 100_000 == 99_999:
            print(f"{number + 1} entries after {time.monotonic() - start:.1f} s", flush=True)
    for number in range(chosen.changes):
        os.mknod(f"{place}/goes-{number}")
    made = time.monotonic()

    is_over = threading.Event()
    changes = 0

    def change():
        nonlocal changes
        for number in range(chosen.changes):
            if is_over.is_set():
                return
            os.unlink(f"{place}/goes-{number}")
            os.mknod(f"{place}/comes-{number}")
            changes += 1

    changer = threading.Thread(target=change)
    changer.start()
    listing, seen, mistakes, positions, returns = Listing(place), set(), [], [], 0
    while name := listing.read():
        if name in seen and not name.startswith(b"comes-"):
            mistakes.append(f"{name} comes twice")
        seen.add(name)
        if chance.random() < 0.0005:
            # What follows a position is what followed it before, of the entries that stay.
            position, following = listing.tell(), []
            while len(following) < 5 and (name := listing.read()):
                if name.startswith(b"stays-"):
                    following.append(name)
            listing.seek(position)
            positions.append((position, following))
    is_over.set()
    changer.join()
    listed = time.monotonic()
    for position, following in positions:
        listing.seek(position)
        for expected in following:
            while (name := listing.read()) and not name.startswith(b"stays-"):
                pass
            if name != expected:
                mistakes.append(f"after position {position} came {name}, not {expected}")
        returns += 1
    listing.close()
    stays = {f"stays-{number}".encode() for number in range(chosen.entries)}
    mistakes += [f"{name} was not seen" for name in list(stays - seen)[:10]]
    count = sum(1 for _ in os.scandir(place))
    expected = chosen.entries + chosen.changes
    if count != expected:
        mistakes.append(f"{count} entries at the end, not {expected}")
    counted = time.monotonic()
    for name in os.listdir(place):
        os.unlink(f"{place}/{name}")
    os.rmdir(place)
    print(
        f"{chosen.entries} entries made in {made - start:.1f} s, listed in {listed - made:.1f} s under {changes} changes, "
        f"gone back to {returns} positions, counted in {counted - listed:.1f} s, removed in "
        f"{time.monotonic() - counted:.1f} s: {len(mistakes)} mistakes")
    for mistake in mistakes[:20]:
        print(mistake)
    sys.exit(1 if mistakes else 0)


main()
