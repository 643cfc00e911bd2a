import Testing

extension MountTests {
    /// Extended attributes and access control lists.
    @Suite(.enabled(if: Machine.isRoot, "needs root, to be others")) struct ExtendedAttributeCalls {
        @Test func namespacesAndLimitsAreThoseOfLinux() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try CompiledProgram.run(
                main: """
                    static char value[65537], name[300] = "user."; char found[65536];
                    int fd = open("file", O_RDWR | O_CREAT, 0666); fchmod(fd, 0666); mknod("fifo", S_IFIFO | 0666, 0);
                    symlink("file", "link");
                    CHECK(fsetxattr(fd, "user.a", "1", 1, XATTR_CREATE) == 0);
                    CHECK(FAILS(EEXIST, fsetxattr(fd, "user.a", "1", 1, XATTR_CREATE)));
                    CHECK(FAILS(ENODATA, fsetxattr(fd, "user.b", "1", 1, XATTR_REPLACE)));
                    CHECK(fsetxattr(fd, "user.a", "12345", 5, XATTR_REPLACE) == 0);
                    CHECK(fgetxattr(fd, "user.a", 0, 0) == 5 && FAILS(ERANGE, fgetxattr(fd, "user.a", found, 4)));
                    CHECK(fgetxattr(fd, "user.a", found, 9) == 5 && memcmp(found, "12345", 5) == 0);
                    CHECK(FAILS(ENODATA, fgetxattr(fd, "user.none", found, 9)));
                    CHECK(FAILS(ENODATA, fremovexattr(fd, "user.none")));
                    CHECK(fsetxattr(fd, "user.empty", "", 0, 0) == 0 && fgetxattr(fd, "user.empty", found, 9) == 0);
                    CHECK(fremovexattr(fd, "user.empty") == 0);
                    CHECK(fsetxattr(fd, "user.big", value, 65536, 0) == 0 && fgetxattr(fd, "user.big", found, 65536) == 65536);
                    CHECK(FAILS(E2BIG, fsetxattr(fd, "user.big", value, 65537, 0)));
                    memset(name + 5, 'n', 250); CHECK(fsetxattr(fd, name, "1", 1, 0) == 0);
                    name[255] = 'n'; CHECK(FAILS(ERANGE, fsetxattr(fd, name, "1", 1, 0))); name[255] = 0;
                    CHECK(FAILS(EOPNOTSUPP, fsetxattr(fd, "other.a", "1", 1, 0)));
                    CHECK(FAILS(EOPNOTSUPP, fsetxattr(fd, "system.a", "1", 1, 0)));
                    CHECK(FAILS(EPERM, setxattr("fifo", "user.a", "1", 1, 0)));
                    CHECK(FAILS(EPERM, lsetxattr("link", "user.a", "1", 1, 0)));
                    CHECK(lsetxattr("link", "trusted.a", "1", 1, 0) == 0 && setxattr("fifo", "security.a", "1", 1, 0) == 0);
                    CHECK(fsetxattr(fd, "trusted.a", "1", 1, 0) == 0 && fsetxattr(fd, "security.a", "1", 1, 0) == 0);
                    long all = flistxattr(fd, 0, 0);
                    CHECK(all == 7 + 9 + 256 + 10 + 11 && FAILS(ERANGE, flistxattr(fd, found, all - 1)));
                    CHECK(flistxattr(fd, found, all) == all);
                    // Others neither see nor read what is trusted.
                    pid_t child = fork();
                    if (child == 0) {
                        setgid(65534); setuid(65534);
                        CHECK(listxattr("file", found, sizeof found) == all - 10);
                        CHECK(FAILS(ENODATA, getxattr("file", "trusted.a", found, 9)));
                        CHECK(FAILS(EPERM, setxattr("file", "trusted.b", "1", 1, 0)));
                        CHECK(setxattr("file", "user.mine", "1", 1, 0) == 0);
                        _exit(failures);
                    }
                    int status; waitpid(child, &status, 0); CHECK(status == 0);
                    // No more names than can be listed.
                    int full = open("full", O_RDWR | O_CREAT, 0644), count = 0;
                    memset(name + 5, 'n', 250);
                    for (; count < 300; count++) {
                        sprintf(name + 251, "%03d", count); name[254] = 'n';
                        if (fsetxattr(full, name, "1", 1, 0) < 0) break;
                    }
                    CHECK(errno == ENOSPC && count == 256);
                    CHECK(flistxattr(full, found, sizeof found) == 65536);
                    """, in: mount.path)
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
        }

        @Test func listsDecideWhoMay() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try Shell.script(
                Shell.refused + """
                chmod 755 .
                as() { user=$1; shift; setpriv --reuid $user --regid $user --clear-groups -- "$@"; }
                echo secret >file; chmod 640 file
                refused as 4001 cat file
                setfacl -m u:4001:r,g:4002:rw file
                as 4001 cat file; refused as 4001 sh -c 'echo x >>file'
                as 4002 sh -c 'echo more >>file'; refused as 4003 cat file
                test "$(stat -c %a file)" = 660
                # chmod moves the mask, and the mask bounds the named.
                chmod 640 file
                getfacl -cp file | grep -q '^mask::r--'; refused as 4002 sh -c 'echo x >>file'; as 4002 cat file >/dev/null
                chmod 600 file; refused as 4001 cat file; chmod 660 file; as 4001 cat file >/dev/null
                # The mask follows the list, the mode the mask.
                setfacl -m m::r file; test "$(stat -c %a file)" = 640
                # Without named entries the list is the mode.
                setfacl -b file; test "$(stat -c %a file)" = 640; refused getfattr -n system.posix_acl_access file
                refused as 4001 cat file
                # Only the owner sets it.
                refused as 4001 setfacl -m u:4001:rwx file
                refused setfacl -d -m u:4001:rwx file
                """, in: mount.path)
        }

        @Test func newFilesInheritTheDefaultList() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try Shell.script(
                Shell.refused + """
                umask 077
                mkdir d; setfacl -d -m u::rwx,g::r-x,o::---,u:4001:rwx d
                touch d/file; mkdir d/sub; mknod d/pipe p; ln -s file d/link; mkdir -m 700 d/private
                # The list counts, not the umask; no permission that was not asked for.
                test "$(stat -c %a d/file d/sub d/pipe d/private | tr '\\n' ' ')" = '660 770 660 700 '
                getfacl -cp d/file >out; printf 'user::rw-\\nuser:4001:rwx\\t#effective:rw-\\ngroup::r-x\\t#effective:r--\\nmask::rw-\\nother::---\\n\\n' | diff - out
                getfacl -cp d/sub | grep -q '^default:user:4001:rwx'; getfacl -cp d/sub | grep -q '^user:4001:rwx'
                touch d/sub/deep; getfacl -cp d/sub/deep | grep -q '^user:4001:rwx'
                getfacl -cp d/private | grep -q '^mask::---'
                # Without a default list, the umask.
                setfacl -k d; touch d/plain; mkdir d/dir; test "$(stat -c %a d/plain d/dir | tr '\\n' ' ')" = '600 700 '
                umask 002; touch d/shared; test "$(stat -c %a d/shared)" = 664
                # Lists of three entries are inherited as modes.
                setfacl -d -m u::rwx,g::r-x,o::r-x d; umask 077; touch d/three; mkdir d/four
                test "$(stat -c %a d/three d/four | tr '\\n' ' ')" = '644 755 '
                rm d/out 2>/dev/null || true
                # Copied with everything.
                cp -a d copied; getfacl -R -cp d >../1; getfacl -R -cp copied >../2; sed s,copied,d, ../2 | diff ../1 -
                tar --acls --xattrs -cf ../t.tar d; mkdir x; tar --acls --xattrs -C x -xf ../t.tar; (cd x; getfacl -R -cp d) | diff ../1 -
                """, in: mount.path)
            let before = try Shell.script("getfacl -R -cp d", in: mount.path).output
            try mount.unmount()
            #expect(try O3FSBinary.run("check", mount.store).status == 0)
            try mount.mount()
            #expect(try Shell.script("getfacl -R -cp d", in: mount.path).output == before)
        }

        @Test func listsCanBeSwitchedOff() throws {
            let mount = try TestMount(options: ["-o", "noacl,allow_other"])
            try Shell.script(
                Shell.refused + """
                umask 027; touch file; test "$(stat -c %a file)" = 640
                refused_with 'not supported' setfacl -m u:4001:r file
                setfattr -n user.a -v b file
                """, in: mount.path)
        }

        @Test func capabilitiesGoWithTheContents() throws {
            let mount = try TestMount(options: ["-o", "allow_other"])
            try CompiledProgram.run(
                """
                static void give(const char *path) {
                    // VFS_CAP_REVISION_2, CAP_NET_RAW.
                    unsigned cap[5] = { 0x02000000, 1 << 13, 0, 0, 0 };
                    setxattr(path, "security.capability", cap, sizeof cap, 0);
                }
                static int has(const char *path) { char c[64]; return getxattr(path, "security.capability", c, 64) == 20; }

                """,
                main: """
                    int fd = open("file", O_RDWR | O_CREAT, 0755);
                    give("file"); CHECK(has("file")); write(fd, "x", 1); CHECK(!has("file"));
                    give("file"); CHECK(has("file")); ftruncate(fd, 10); CHECK(!has("file"));
                    give("file"); CHECK(has("file")); fchown(fd, 1, 1); CHECK(!has("file"));
                    give("file"); chmod("file", 0700); utimensat(AT_FDCWD, "file", 0, 0); CHECK(has("file"));
                    """, in: mount.path)
        }
    }
}
