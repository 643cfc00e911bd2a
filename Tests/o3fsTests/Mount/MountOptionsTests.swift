import Foundation
import Testing

@testable import o3fs

@Suite struct MountOptionsTests {
    @Test func optionsGoWhereTheyBelong() throws {
        let options = try MountOptions(["ro,nodev,noatime", "x-systemd.automount,defaults,nofail"], store: "/s")
        #expect(options.isReadOnly)
        #expect(options.kernel == ["ro", "nodev", "noatime", "default_permissions", "fsname=/s", "subtype=o3fs"])
        let last = try MountOptions(["ro,rw,no_default_permissions,fsname=n,subtype=t"], store: "/s")
        #expect(!last.isReadOnly)
        #expect(last.kernel == ["ro", "rw", "fsname=n", "subtype=t"])
    }

    @Test func ownersAndListsAreOurs() throws {
        let options = try MountOptions(["uid=7,gid=8,noacl,user_xattr"], store: "/s")
        #expect(options.shownOwner == .init(uid: 7, gid: 8))
        #expect(!options.accessControlLists)
        #expect(options.kernel == ["default_permissions", "fsname=/s", "subtype=o3fs"])
        #expect(try MountOptions([], store: "/s").accessControlLists)
        // Who does not want permissions checked cannot have lists checked.
        #expect(try !MountOptions(["no_default_permissions"], store: "/s").accessControlLists)
    }

    @Test func accessTimesAreAsMountSays() throws {
        #expect(try MountOptions([], store: "/s").accessTimes == .relative)
        #expect(try MountOptions(["noatime,strictatime"], store: "/s").accessTimes == .always)
        #expect(try MountOptions(["strictatime,noatime"], store: "/s").accessTimes == .never)
        #expect(try MountOptions(["strictatime,relatime,lazytime"], store: "/s").accessTimes == .relative)
        #expect(try !MountOptions(["nodiratime"], store: "/s").directoryAccessTimes)
    }

    @Test func whatFusermountRefusesIsSaidBefore() throws {
        let directory = try TemporaryDirectory("options")
        let file = directory.path + "/fuse.conf"
        let options = try MountOptions(["allow_other"], store: "/s")
        try options.checkPermitted(user: 0, configuration: file)
        #expect(throws: CommandError.self) { try options.checkPermitted(user: 1, configuration: file) }
        try "# user_allow_other\n#user_allow_other\n".write(toFile: file, atomically: true, encoding: .utf8)
        #expect(throws: CommandError.self) { try options.checkPermitted(user: 1, configuration: file) }
        try "mount_max = 1\n user_allow_other\n".write(toFile: file, atomically: true, encoding: .utf8)
        try options.checkPermitted(user: 1, configuration: file)
        try MountOptions([], store: "/s").checkPermitted(user: 1, configuration: "/none")
    }

    @Test func commasInNamesAreEscaped() throws {
        let options = try MountOptions([], store: #"/a,b\c"#)
        #expect(options.kernel.contains(#"fsname=/a\,b\\c"#))
        #expect(MountOptions.split(#"a\,b,c\\d"#) == ["a,b", #"c\d"#])
    }

    @Test(arguments: ["bogus", "nodev=1", "dm-size", "max_read=1", "fsname", "fsname=", "uid=x", "gid=-1", "uid", "remount"])
    func mistakesAreNamed(option: String) {
        let error = #expect(throws: CommandError.self) { _ = try MountOptions(["rw,\(option)"], store: "/s") }
        #expect(error?.description.contains(option) == true)
    }

    @Test func mountCallsAreUnderstood() {
        let expected = ["mount", "/s", "/m", "-o", "rw,nodev", "--dm-size", "64M", "--writeback-cache"]
        let list = "rw,nodev,dm_size=64M,writeback_cache"
        #expect(MountArguments.rewrite(["/usr/bin/o3fs", "/s", "/m", "-o", list]) == expected)
        #expect(MountArguments.rewrite(["/sbin/mount.o3fs", "/s", "/m", "-n", "-t", "o3fs", "-o", list]) == expected)
        #expect(MountArguments.rewrite(["o3fs", "mount", "/s", "/m", "-o" + list]) == expected)
        let dashed = ["o3fs", "mount", "-o", "nodev,dm_size=64M", "--", "/s", "-o"]
        #expect(MountArguments.rewrite(dashed) == ["mount", "-o", "nodev", "--dm-size", "64M", "--", "/s", "-o"])
        #expect(MountArguments.rewrite(["o3fs", "status", "/m"]) == ["status", "/m"])
        #expect(MountArguments.rewrite(["o3fs", "--help"]) == ["--help"])
        #expect(MountArguments.rewrite(["o3fs", "mount", "/s", "/m", "-f"]) == ["mount", "/s", "/m", "-f"])
    }

    @Test func storesAndMountpointsDoNotNest() throws {
        func check(_ store: String, _ mountpoint: String) throws {
            try MountPlan(store: store, mountpoint: mountpoint).checkNesting()
        }
        try check("/a/store", "/a/mnt")
        try check("/a/mnt-store", "/a/mnt")
        for (store, mountpoint) in [("/a", "/a"), ("/a/b", "/a"), ("/a", "/a/b"), ("/a", "/")] {
            #expect(throws: CommandError.self) { try check(store, mountpoint) }
        }
    }

    @Test func theDaemonsLinesAreRead() {
        #expect(DaemonStatus.Message("nhello") == .note("hello"))
        #expect(DaemonStatus.Message("s") == .success(""))
        #expect(DaemonStatus.Message("fwhy not") == .failure("why not"))
        #expect(DaemonStatus.Message("") == nil)
    }
}
