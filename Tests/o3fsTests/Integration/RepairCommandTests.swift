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
    }
}
