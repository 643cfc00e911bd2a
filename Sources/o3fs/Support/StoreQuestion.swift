import O3LSM

/// Asks a store's daemon when it is mounted, and looks into the store itself when it is not.
enum StoreQuestion {
    static func status(_ location: StoreLocation) throws -> StatusReport {
        try ask(location, .status) {
            StatusReport($0.statistics(), store: location.store, mountpoint: nil, daemon: nil)
        }
    }

    static func statistics(_ location: StoreLocation) throws -> StatisticsReport {
        try ask(location, .stats) { StatisticsReport($0.statistics(), fuse: nil) }
    }

    private static func ask<Answer: Codable>(
        _ location: StoreLocation,
        _ command: ControlCommand,
        offline: (Database) throws -> Answer
    ) throws -> Answer {
        do {
            return try ControlClient.request(command, at: location.socket, as: Answer.self)
        } catch ControlClient.Failure.nobodyListens {
            if let mountpoint = location.mountpoint { throw dead(location, mountpoint) }
            return try withDatabase(try Database.openReadOnly(location.store), offline)
        }
    }

    private static func dead(_ location: StoreLocation, _ mountpoint: String) -> CommandError {
        guard let reason = GivenUpNote(store: location.store).read() else {
            return CommandError("the daemon of \(location.store) is dead: run o3fs umount \(mountpoint), then mount it again")
        }
        return CommandError(
            "the daemon of \(location.store) is dead, and the mount was given up: \(reason). Run o3fs umount \(mountpoint), then "
                + "mount it again; what the daemons have reported is in \(location.store)/o3fs.log, unless --log-file says otherwise")
    }
}
