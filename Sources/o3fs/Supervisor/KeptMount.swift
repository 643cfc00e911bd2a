import FUSE

/// What a daemon leaves with its supervisor for the next one: the kernel's session, the store's lock, and
/// how often the kernel knows each file.
struct KeptMount: Equatable {
    var session: HeldSession
    /// Descriptor through which the store's lock is held.
    var storeLock: Int32
    /// Descriptor of the file of lookup counts.
    var lookupCounts: Int32

    /// Changes when what is kept does; a daemon refuses what it does not know.
    private static let version: UInt64 = 1

    var descriptors: [Int32] { [storeLock, lookupCounts] + session.descriptors }

    /// All but the descriptors.
    var encoded: [UInt8] {
        var writer = FieldWriter()
        writer.add(Self.version)
        writer.add(Array(session.mountPoint.utf8))
        writer.add(session.initialization)
        writer.add(session.agreement)
        return writer.bytes
    }

    init(session: HeldSession, storeLock: Int32, lookupCounts: Int32) {
        self.session = session
        self.storeLock = storeLock
        self.lookupCounts = lookupCounts
    }

    /// nil for what another version of the program kept.
    init?(_ bytes: [UInt8], descriptors: [Int32]) {
        var reader = FieldReader(bytes)
        guard reader.number() == Self.version, let mountPoint = reader.field(), let initialization = reader.field(),
            let agreement = reader.field(), descriptors.count >= 2 + HeldSession.minimumDescriptors
        else { return nil }
        (storeLock, lookupCounts) = (descriptors[0], descriptors[1])
        session = HeldSession(
            descriptors: Array(descriptors[2...]), mountPoint: String(decoding: mountPoint, as: UTF8.self),
            initialization: initialization, agreement: agreement)
    }
}
