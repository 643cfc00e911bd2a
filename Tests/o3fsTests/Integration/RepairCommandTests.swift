import Foundation
import Testing

extension MountTests {
    /// Rows damaged with `o3fs kv`: `check` names them, `repair` says what it would do, does it with --yes, and
    /// everything that was not damaged is where it was.
    @Suite("Repair", .enabled(if: Machine.canMount)) struct RepairCommandTests {
        @Test func whatCheckFindsIsRepaired() throws {
            let mount = try TestMount()
            try Shell.script("mkdir -p a/b; echo kept >a/b/file; echo other >other; ln -s other link", in: mount.path)
            let lost = try Shell.script("stat -c %i a", in: mount.path).output.trimmingCharacters(in: .whitespacesAndNewlines)
            let other = try Shell.script("stat -c %i other", in: mount.path).output.trimmingCharacters(
                in: .whitespacesAndNewlines)
            try mount.unmount()
            #expect(try O3FSBinary.run("repair", mount.store).status == 0)

            try O3FSBinary.succeed("kv", "delete", mount.store, "dentry 1/\"a\"")
            try O3FSBinary.succeed("kv", "delete", mount.store, "inode \(other)")
            #expect(try O3FSBinary.run("check", mount.store).status == 1)
            let planned = try O3FSBinary.run("repair", mount.store)
            #expect(planned.status == 1 && planned.output.contains("to do: ") && planned.output.contains("nothing was changed"))
            #expect(try O3FSBinary.run("check", mount.store).status == 1, "a dry run has changed something")

            let done = try O3FSBinary.run("repair", mount.store, "--yes")
            #expect(done.status == 0 && done.output.contains("/lost+found as #\(lost)"), "\(done)")
            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 0, "\(check)")
            #expect(try O3FSBinary.json("repair", mount.store, "--json")["changes"] as? [String] == [])

            try mount.mount()
            #expect(
                try Shell.script("cat 'lost+found/#\(lost)/b/file' other link", in: mount.path).output
                    == "kept\nother\nother\n")
            try mount.unmount()
        }

        /// Everything by which the store's own data is found is destroyed; the data itself is not.
        @Test func aStoreWithoutManifestAndIndexesIsBroughtBack() throws {
            let mount = try TestMount()
            try Shell.script(
                "mkdir -p a/b; for i in $(seq 300); do echo $i >a/b/f$i; done; head -c 5M /dev/urandom >big; ln big a/again; "
                    + "setfattr -n user.note -v kept big; find . -type f -exec md5sum {} + | sort >../sums", in: mount.path)
            try mount.unmount()
            try Shell.script(
                """
                rm CURRENT; for m in MANIFEST-*; do echo rubbish >$m; done; printf x | dd of=IDENTITY bs=1 seek=20 conv=notrunc
                for t in sst/*.sst; do
                    printf rubbish | dd of=$t bs=1 seek=2 conv=notrunc
                    printf rubbish | dd of=$t bs=1 seek=$(($(stat -c %s $t) - 60)) conv=notrunc
                done
                """, in: mount.store)
            #expect(try O3FSBinary.run("check", mount.store).status == 1)
            let planned = try O3FSBinary.run("repair", mount.store)
            #expect(planned.status == 1 && planned.output.contains("nothing was changed"), "\(planned)")
            let done = try O3FSBinary.run("repair", mount.store, "--yes")
            #expect(done.status == 0, "\(done)")
            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 0, "\(check)")
            try mount.mount()
            try Shell.script(
                "find . -type f -exec md5sum {} + | sort | diff - ../sums; test $(stat -c %h big) = 2; "
                    + "getfattr -n user.note --only-values big | grep -q kept", in: mount.path)
            try mount.unmount()
        }

        /// A block of rows is lost: what was in it is said, and all the rest goes on.
        @Test func aDamagedBlockCostsItsRows() throws {
            let mount = try TestMount()
            try Shell.script("for i in $(seq 2000); do echo $i >f$i; done; head -c 3M /dev/urandom >big; md5sum big >../sum", in: mount.path)
            try mount.unmount()
            // The first block of the first table: the superblock and the first inodes are in it.
            let table = try #require(
                try FileManager.default.contentsOfDirectory(atPath: mount.store + "/sst").sorted().first)
            try Shell.script("printf rubbish | dd of=sst/\(table) bs=1 seek=100 conv=notrunc", in: mount.store)
            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 1 && check.output.contains(table), "\(check)")
            let done = try O3FSBinary.run("repair", mount.store, "--yes")
            #expect(done.status == 1 && done.output.contains("lost: rows "), "\(done)")
            let again = try O3FSBinary.run("check", mount.store)
            #expect(again.status == 0, "\(again)")
            try mount.mount()
            try Shell.script(
                "test $(find . -type f | wc -l) -ge 1800; test \"$(cat $(find . -name f1999))\" = 1999; echo more >more",
                in: mount.path)
            try mount.unmount()
        }
    }
}
