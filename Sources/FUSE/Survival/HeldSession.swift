/// A kernel session, apart from the process that serves it: what another process needs to go on in its place.
///
/// The kernel ends a session when the last of its descriptors is closed, and fails the requests that were read
/// through a descriptor when that one is. So somebody who outlives the serving process must hold them all.
public struct HeldSession: Equatable, Sendable {
    /// The session's own descriptor of /dev/fuse, and a clone of it for each thread.
    public var descriptors: [Int32]
    /// Where it is mounted: absolute, without symbolic links.
    public var mountPoint: String
    /// The kernel's first request (FUSE_INIT) and the answer it got. The kernel sends it only once, and holds
    /// itself to the answer for as long as the session lasts.
    public var initialization: [UInt8]
    public var agreement: [UInt8]

    public init(descriptors: [Int32], mountPoint: String, initialization: [UInt8], agreement: [UInt8]) {
        self.descriptors = descriptors
        self.mountPoint = mountPoint
        self.initialization = initialization
        self.agreement = agreement
    }

    /// A session's descriptor, and a thread's at least.
    public static let minimumDescriptors = 2
}
