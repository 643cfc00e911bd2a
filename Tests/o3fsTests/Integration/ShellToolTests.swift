import Foundation
import Testing

extension MountTests {
    /// Programs that people use, in a mount, doing what they do elsewhere.
    @Suite struct ShellTools {
        @Test(.timeLimit(.minutes(5))) func gitClonesAndFindsNoFault() throws {
            let mount = try TestMount()
            try Shell.script(
                """
                export HOME="$PWD" GIT_CONFIG_NOSYSTEM=1
                git config --global user.name Test; git config --global user.email test@example.org
                git config --global init.defaultBranch main; git config --global --add safe.directory '*'
                mkdir origin; cd origin; git init -q
                for commit in $(seq 60); do
                    mkdir -p "dir$((commit % 7))"
                    seq "$commit" $((commit + 500)) >"dir$((commit % 7))/file$commit"
                    ln -sf "file$commit" "dir$((commit % 7))/newest"
                    echo "$commit" >>log; git add -A; git commit -qm "commit $commit"
                done
                cd '\(mount.path)'
                git clone -q "$OLDPWD" clone; cd clone
                git fsck --full --strict
                test "$(git rev-list --count HEAD)" = 60
                git status --porcelain | tee /dev/stderr | (! grep .)
                git checkout -q HEAD~30; git checkout -q main; git gc -q --prune=now
                git checkout -q -b topic; echo more >>log; git commit -qam topic; git fsck --full
                git checkout -q main; diff -r --no-dereference --exclude=.git . '\(mount.directory.path)/origin'
                """,
                in: mount.directory.path
            )
        }

        @Test(.timeLimit(.minutes(5)), arguments: ["wal", "delete", "truncate"])
        func sqliteKeepsAHundredThousandRows(journal: String) throws {
            let mount = try TestMount()
            try Shell.script(
                """
                test "$(sqlite3 rows.db 'PRAGMA journal_mode=\(journal);')" = \(journal)
                for part in 0 1 2 3 4 5 6 7 8 9; do
                    sqlite3 rows.db "PRAGMA journal_mode=\(journal);
                        CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, name TEXT, data BLOB);
                        CREATE INDEX IF NOT EXISTS by_name ON t(name);
                        WITH RECURSIVE n(i) AS (SELECT $part * 10000 + 1 UNION ALL SELECT i + 1 FROM n WHERE i < ($part + 1) * 10000)
                        INSERT INTO t SELECT i, 'name' || i, randomblob(100) FROM n;" >/dev/null
                done
                sqlite3 rows.db "BEGIN; UPDATE t SET data = randomblob(90) WHERE id % 3 = 0; ROLLBACK;"
                sqlite3 rows.db "UPDATE t SET name = 'changed' || id WHERE id % 10 = 0; VACUUM;"
                test "$(sqlite3 rows.db 'SELECT count(*), sum(id) FROM t;')" = '100000|5000050000'
                test "$(sqlite3 rows.db "SELECT count(*) FROM t WHERE name LIKE 'changed%';")" = 10000
                test "$(sqlite3 rows.db 'PRAGMA integrity_check;')" = ok
                """,
                in: mount.path
            )
            try mount.unmount()
            try mount.mount()
            let check = try Shell.script("sqlite3 rows.db 'PRAGMA integrity_check;'", in: mount.path)
            #expect(check.output == "ok\n")
        }

        @Test(.timeLimit(.minutes(5))) func tarOfSystemHeadersGoesInAndOut() throws {
            let mount = try TestMount()
            try Shell.script(
                """
                mkdir out
                tar -C /usr -cf '\(mount("include.tar"))' include
                tar -C '\(mount.path)' -xf '\(mount("include.tar"))'
                diff -r --no-dereference /usr/include '\(mount("include"))'
                tar -C '\(mount.path)' -cf - include | tar -C out -xf -
                diff -r --no-dereference /usr/include out/include
                cmp '\(mount("include.tar"))' <(tar -C /usr -cf - include)
                """,
                in: mount.directory.path
            )
        }

        @Test(.timeLimit(.minutes(5))) func copiesKeepEverything() throws {
            let mount = try TestMount()
            // A tree with all kinds of things; device nodes need root.
            try Shell.script(
                """
                mkdir -p tree/a/b/c tree/empty tree/many; cd tree
                for i in $(seq 500); do echo "$i" >many/$i; done
                head -c 3000000 /dev/urandom >random; ln random a/hard; ln random a/b/hard2
                ln -s ../random a/soft; ln -s /nonexistent dangling; ln -s "$(printf 'x%.0s' $(seq 200))" long
                truncate -s 50M sparse; printf end | dd of=sparse bs=1 seek=40000000 conv=notrunc status=none
                mkfifo pipe; touch -d '1999-12-31 23:59:59.123456789' old; touch -d 2040-01-01 new
                printf 'a name\\nwith "odd" \\\\ bytes \\303\\244' | xargs -0 touch --
                chmod 4755 random; chmod 1777 empty; chmod 000 old
                setfattr -n user.note -v hello random; setfattr -n user.empty old; setfattr -n user.dir -v d a
                setfattr -n user.big -v "$(head -c 3000 /dev/zero | tr '\\0' x)" a/b
                if [ "$(id -u)" = 0 ]; then mknod null c 1 3; chown 1234:5678 new; chown -h 12:34 dangling; fi
                """,
                in: mount.directory.path
            )
            try Shell.script(
                """
                compare() {
                    changes=$(rsync -aHAX --checksum --delete --dry-run --itemize-changes "$1/" "$2/")
                    if [ -n "$changes" ]; then echo "$1 and $2 differ:"; echo "$changes"; return 1; fi
                }
                cp -a tree '\(mount("copied"))'; compare tree '\(mount("copied"))'
                rsync -aHAX --sparse tree/ '\(mount("synced"))'; compare tree '\(mount("synced"))'
                compare '\(mount("synced"))' '\(mount("copied"))'
                cp -a '\(mount("copied"))' back; compare tree back
                test "$(stat -c %h '\(mount("copied/random"))')" = 3
                test "$(stat -c %y '\(mount("copied/old"))')" = "$(stat -c %y tree/old)"
                test "$(du -k '\(mount("synced/sparse"))' | cut -f1)" -lt 1024
                """,
                in: mount.directory.path
            )
        }

        @Test(.timeLimit(.minutes(5))) func aProgramIsCompiledAndRun() throws {
            let mount = try TestMount()
            let result = try Shell.script(
                """
                for i in 1 2 3 4 5 6 7 8; do
                    echo "#include \\"all.h\\"" >part$i.c
                    echo "int part$i(void) { return $i * $i; }" >>part$i.c
                    echo "int part$i(void);" >>all.h
                done
                printf '#include <stdio.h>\\n#include "all.h"\\nint main(void) { printf("%%d\\\\n", part3() + part8()); return 0; }\\n' >main.c
                ls *.c | xargs -P4 -I{} gcc -O1 -c {}
                ar rcs libparts.a part*.o; gcc -o program main.o -L. -lparts
                ./program
                gcc -shared -fPIC -o libparts.so part*.c; gcc -o dynamic main.o -L. -l:libparts.so -Wl,-rpath,.
                ./dynamic
                """,
                in: mount.path
            )
            #expect(result.output == "73\n73\n")
        }

        @Test(.timeLimit(.minutes(5))) func aDirectoryOfTenThousandFilesMovesAtOnce() throws {
            let mount = try TestMount()
            try Shell.script("mkdir from to; cd from; seq 10000 | xargs touch; sync", in: mount.path)
            // The best of a few, since the machine may be loaded; one that touched each file would take seconds.
            var best = Double.infinity
            for _ in 0..<3 {
                best = min(best, try Shell.script("mv from to/there", in: mount.path).seconds)
                best = min(best, try Shell.script("mv to/there from", in: mount.path).seconds)
            }
            #expect(best < 0.25)
            try Shell.script("mv from to/there", in: mount.path)
            let count = try Shell.script("ls to/there | wc -l; test ! -e from; cat to/there/7777", in: mount.path)
            #expect(count.output == "10000\n")
        }

        @Test(.timeLimit(.minutes(5))) func filesBehaveAsPOSIXSays() throws {
            let mount = try TestMount()
            try Shell.script(
                Shell.refused + """
                # An unlinked file lives while it is open.
                echo kept >open; exec 3<open; rm open; read -r line <&3; test "$line" = kept; exec 3<&-
                # Renames replace, also directories that are empty.
                echo 1 >one; echo 2 >two; mv one two; test "$(cat two)" = 1; test ! -e one
                mkdir d1 d2; mv -T d1 d2; test ! -e d1
                refused_with 'cannot overwrite directory' mv -T two d2; mkdir -p d3/in
                refused_with 'not empty' mv -T d2 d3; refused_with 'subdirectory of itself' mv d3 d3/in
                # Names.
                name=$(printf 'n%.0s' $(seq 255)); touch "$name"; test -e "$name"; refused_with 'too long' touch "${name}x"
                # Holes read as zeros, truncation forgets.
                printf abc >file; truncate -s 1M file; truncate -s 2 file; truncate -s 4 file
                test "$(od -An -tx1 file | tr -d ' ')" = 61620000
                # Many appenders, nothing lost.
                for w in 1 2 3 4; do (for i in $(seq 250); do echo "$w $i" >>log; done) & done; wait
                test "$(sort -u log | wc -l)" = 1000
                # Punching, zeroing, allocating.
                head -c 1M /dev/zero | tr '\\0' x >punched; fallocate -p -o 4096 -l 524288 punched
                test "$(tr -d '\\0' <punched | wc -c)" = $((1048576 - 524288))
                test "$(stat -c %s punched)" = 1048576
                # Times in nanoseconds.
                touch -d '2001-02-03 04:05:06.789012345 UTC' when; test "$(TZ=UTC stat -c %y when)" = '2001-02-03 04:05:06.789012345 +0000'
                # Errors are the right ones.
                refused_with 'not empty' rmdir d3; refused_with 'No such file' cat nothing
                refused_with 'File exists' mkdir d3; refused_with 'Not a directory' ls two/x
                # Space is told.
                df . | tail -1 | awk '{ exit !($2 > 0) }'
                flock lockfile true
                """,
                in: mount.path
            )
        }
    }
}
