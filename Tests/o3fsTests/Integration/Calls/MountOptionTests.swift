import Foundation
import Testing

extension MountTests {
    /// What options of mount(8) do to programs.
    @Suite(.enabled(if: Machine.isRoot, "needs root, to be others")) struct OptionsOfMounts {
        @Test func aReadOnlyMountRefusesChanges() throws {
            let mount = try TestMount()
            try Shell.script("echo text >file; mkdir dir; ln -s file link; setfattr -n user.a -v b file", in: mount.path)
            try mount.unmount()
            try O3FSBinary.succeed("mount", mount.store, mount.path, "--dm-size", "64M", "-o", "ro")
            try Shell.script(
                Shell.refused + """
                    test "$(cat link)" = text; test "$(getfattr --only-values -n user.a file)" = b
                    for call in 'touch new' 'mkdir new' 'rm file' 'rmdir dir' 'mv file other' 'chmod 600 file' \\
                        'chown 1 file' 'truncate -s 1 file' 'ln file hard' 'ln -s file new' 'mknod new p' \\
                        'setfattr -n user.c -v d file' 'setfacl -m u:1:r file' 'touch file' 'fallocate -l 10 file'
                    do refused_with 'Read-only file system' $call; done
                    refused sh -c 'echo x >>file'
                    """, in: mount.path)
        }

        @Test func programsDevicesAndIdentitiesAreRefused() throws {
            let mount = try TestMount(options: ["-o", "allow_other,suid,dev"])
            try Shell.script(
                """
                chmod 755 .; cp /usr/bin/id id; chmod 4755 id; mknod null c 1 3; chmod 666 null
                test "$(setpriv --reuid 4001 --regid 4001 --clear-groups ./id -u)" = 0; echo x >null
                """, in: mount.path)
            try mount.unmount()
            try O3FSBinary.succeed(
                "mount", mount.store, mount.path, "--dm-size", "64M", "-o", "allow_other,nosuid,nodev")
            try Shell.script(
                Shell.refused + """
                    test "$(setpriv --reuid 4001 --regid 4001 --clear-groups ./id -u)" = 4001
                    refused_with 'Permission denied' dd if=/dev/zero of=null count=1 conv=notrunc
                    """, in: mount.path)
            try O3FSBinary.succeed("umount", mount.path)
            try O3FSBinary.succeed("mount", mount.store, mount.path, "--dm-size", "64M", "-o", "noexec")
            try Shell.script(
                Shell.refused + """
                    refused_with 'Permission denied' ./id
                    # Nobody else, without allow_other.
                    refused setpriv --reuid 4001 --regid 4001 --clear-groups ls .
                    """, in: mount.path)
        }

        /// What reads that the kernel answers from its caches do, and with strictatime do not.
        @Test func accessTimesFollowTheOption() throws {
            func read(_ options: String) throws -> [Substring] {
                let mount = try TestMount(options: ["-o", options])
                let script = """
                    head -c 8192 /dev/zero >file; mkdir -p dir/sub; ln -sf file link
                    touch -h -d '2001-01-01' file dir link
                    cat file >/dev/null; ls dir >/dev/null; readlink link >/dev/null
                    stat -c %X file dir link | awk '{ print ($1 > 1000000000 ? "now" : "then") }'
                    sleep 0.02; stat -c %x file >../first; cat file >/dev/null; ls dir >/dev/null; sleep 0.02; stat -c %x file >../second
                    cmp -s ../first ../second && echo same || echo moved
                    """
                return try Shell.script(script, in: mount.path).output.split(separator: "\n")
            }
            #expect(try read("noatime") == ["then", "then", "then", "same"])
            #expect(try read("strictatime") == ["now", "now", "now", "moved"])
            #expect(try read("strictatime,nodiratime") == ["now", "then", "now", "moved"])
            // What was just written is in the page cache; listing and link are not.
            #expect(try read("relatime") == ["then", "now", "now", "same"])
        }

        @Test func filesAreShownAsOthers() throws {
            let mount = try TestMount(options: ["-o", "allow_other,uid=4001,gid=4002"])
            try Shell.script(
                """
                touch file; chown 5:6 file; mkdir dir
                test "$(stat -c %u:%g file dir . | sort -u)" = 4001:4002
                test "$(find . -maxdepth 1 -uid 4001 -gid 4002 | wc -l)" = 3
                # The one they are shown as may do what an owner may.
                setpriv --reuid 4001 --regid 4001 --clear-groups sh -c 'chmod 600 file; echo x >file; touch dir/new'
                """, in: mount.path)
            try mount.unmount()
            try O3FSBinary.succeed("mount", mount.store, mount.path, "--dm-size", "64M")
            let owners = try Shell.script("stat -c %u:%g file dir dir/new", in: mount.path).output
            #expect(owners == "5:6\n0:0\n4001:4001\n")
        }

        /// Through fusermount3. The device may be root's here: a node of our own lies over it.
        @Test(.enabled(if: Machine.canUnshare, needsNamespaces), arguments: ["--no-survive", "--survive"])
        func usersMountTheirOwn(survival: String) throws {
            let directory = try TemporaryDirectory("user")
            chmod(directory.path, 0o755)
            let binary = try #require(O3FSBinary.path)
            let script =
                Shell.refused + """
                    mknod device c 10 229; chmod 666 device; mount --bind device /dev/fuse
                    mkdir store mnt; chown 65534:65534 store mnt
                    as() { setpriv --reuid 65534 --regid 65534 --clear-groups -- env HOME=/tmp "$@"; }
                    as "$O3FS" mount "$PWD/store" "$PWD/mnt" --dm-size 64M $SURVIVAL
                    grep "$PWD/mnt fuse.o3fs rw,nosuid,nodev" /proc/mounts >/dev/null
                    cat >calls <<'end'
                    cd mnt; umask 022; echo text >file; mkdir -p a/b; mv file a/b/; cat a/b/file >/dev/null
                    test "$(stat -c %u:%g a/b/file)" = 65534:65534; ln a/b/file hard; setfacl -m u:1:r hard
                    if chown 0 hard 2>/dev/null; then exit 1; fi; if mknod d c 1 3 2>/dev/null; then exit 1; fi
                    mkfifo pipe; chmod 2755 a; rm hard; sync .
                    end
                    as sh -e calls
                    # Not even root, without allow_other.
                    refused ls mnt
                    if ! grep -qs '^user_allow_other' /etc/fuse.conf; then
                        mkdir other; chown 65534:65534 other
                        refused_with allow_other as "$O3FS" mount "$PWD/other" "$PWD/mnt" -o allow_other
                    fi
                    as "$O3FS" status mnt >/dev/null
                    as "$O3FS" umount mnt
                    refused grep "$PWD/mnt" /proc/mounts
                    as "$O3FS" check store >/dev/null
                    as "$O3FS" mount "$PWD/store" "$PWD/mnt" --dm-size 64M $SURVIVAL -o ro,noexec
                    as cat mnt/a/b/file; as fusermount3 -u mnt
                    """
            try script.write(toFile: directory.path + "/script", atomically: true, encoding: .utf8)
            let result = try Shell.run(
                ["unshare", "-m", "bash", "-euo", "pipefail", "script"], in: directory.path,
                environment: ["O3FS": binary, "SURVIVAL": survival])
            #expect(result.status == 0 && result.output.contains("text"), "\(result)")
        }
    }
}
