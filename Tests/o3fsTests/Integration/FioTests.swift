import Testing

extension MountTests {
    /// Data that says of itself whether it is right: fio writes blocks with checksums and positions, and
    /// verifies them. The data is four times as large as disaggregated memory.
    @Suite(.serialized) struct VerifiedData {
        static let dmSize = 32 << 20
        static let jobs = 4
        static let sizePerJob = "32M"

        static func fio(_ mount: TestMount, _ arguments: [String]) throws -> CommandResult {
            let result = try Shell.run(
                [
                    "fio", "--name=verify", "--directory=\(mount.path)", "--size=\(sizePerJob)", "--numjobs=\(jobs)",
                    "--verify=crc32c", "--verify_fatal=1", "--verify_dump=0", "--ioengine=psync", "--group_reporting",
                    "--fallocate=none", "--minimal",
                ] + arguments,
                in: mount.directory.path,
                timeout: 240
            )
            guard result.status == 0 else { throw SetupError("\(result)\n--- daemon\n\(mount.troubles())") }
            return result
        }

        @Test(.timeLimit(.minutes(5)), arguments: ["4k", "64k", "1m", "4k-1m"], [0, 1])
        func isRightAfterEachWorkload(blocks: String, direct: Int) throws {
            let mount = try TestMount(dmSize: Self.dmSize)
            let size = blocks.contains("-") ? "--bsrange=\(blocks)" : "--bs=\(blocks)"
            for workload in ["write", "randwrite", "randrw"] {
                _ = try Self.fio(mount, [size, "--direct=\(direct)", "--rw=\(workload)", "--verify_backlog=512"])
            }
        }

        enum End: String, CaseIterable, CustomTestStringConvertible {
            case unmount = "umount"
            case kill = "kill -9 of the daemon"
            case powerLoss = "loss of disaggregated memory, after fsync"
            var testDescription: String { rawValue }
        }

        @Test(.timeLimit(.minutes(5)), arguments: End.allCases)
        func isRightAfterANewMount(end: End) throws {
            let mount = try TestMount(dmSize: Self.dmSize)
            for (name, blocks) in [("seq", "1m"), ("rand", "4k")] {
                let workload = name == "seq" ? "write" : "randwrite"
                _ = try Self.fio(
                    mount,
                    [
                        "--filename_format=\(name).$jobnum", "--bs=\(blocks)", "--rw=\(workload)", "--do_verify=0",
                        "--end_fsync=1",
                    ]
                )
            }
            switch end {
            case .unmount: try mount.unmount()
            case .kill: try mount.killDaemon()
            case .powerLoss: try mount.losePower()
            }
            try mount.mount()
            for (name, blocks) in [("seq", "1m"), ("rand", "4k")] {
                _ = try Self.fio(
                    mount,
                    ["--filename_format=\(name).$jobnum", "--bs=\(blocks)", "--rw=read", "--allow_file_create=0"]
                )
            }
            try mount.unmount()
            let check = try O3FSBinary.run("check", mount.store)
            #expect(check.status == 0, "\(check)")
        }
    }
}
