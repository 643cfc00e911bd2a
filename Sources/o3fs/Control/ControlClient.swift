import Glibc

/// Asks the daemon that owns a store.
enum ControlClient {
    /// Why there is no answer.
    enum Failure: Error, Equatable, CustomStringConvertible {
        /// No daemon runs on the store: nothing listens on its socket.
        case nobodyListens(socket: String)
        case notPermitted(socket: String)
        /// The daemon died, or is not one of ours.
        case noAnswer(socket: String)
        /// The daemon answered that it could not.
        case refused(String)
        case system(String)

        var description: String {
            switch self {
            case .nobodyListens(let socket):
                return "no o3fs daemon answers on \(socket): the store is not mounted"
            case .notPermitted(let socket):
                return "only the owner of the store and root may talk to its daemon (\(socket))"
            case .noAnswer(let socket):
                return "the o3fs daemon behind \(socket) closed the connection without a usable answer"
            case .refused(let text), .system(let text): return text
            }
        }
    }

    /// Sends a command and waits for its answer, however long the command takes. What may be done twice is asked of the
    /// next daemon when one with a supervisor dies over it.
    ///
    /// With `answerWithinSeconds` it is asked once, and no answer so long is `.noAnswer`.
    static func request<Answer: Codable>(
        _ command: ControlCommand,
        at path: String,
        program: String? = nil,
        name: String? = nil,
        scrub: ControlScrub? = nil,
        answerWithinSeconds patience: Int? = nil,
        as type: Answer.Type = Answer.self
    ) throws(Failure) -> Answer {
        let request = ControlRequest(command: command, program: program, name: name, scrub: scrub)
        var deaths = 0
        while true {
            do throws(Failure) {
                return try requestOnce(request, at: path, patience)
            } catch {
                guard case .noAnswer = error, patience == nil, command.isRepeatable, deaths < maximumDeaths, isSupervised(socket: path) else {
                    throw error
                }
                deaths += 1
            }
        }
    }

    /// Daemons that may die over one request.
    private static let maximumDeaths = 5

    private static func requestOnce<Answer: Codable>(
        _ request: ControlRequest, at path: String, _ patience: Int?
    ) throws(Failure) -> Answer {
        let connection = try patience == nil ? connectPatiently(path) : connect(path)
        if let patience { connection.setTimeout(seconds: patience) }
        let text: String
        do { text = try JSON.encode(request) } catch { throw .system("\(error)") }
        // A peer that turned us away may have closed already; its answer is still there to read.
        _ = connection.writeLine(text)
        guard let line = connection.readLine(limit: ControlSocket.maximumAnswerBytes) else {
            throw .noAnswer(socket: path)
        }
        if let success = try? JSON.decode(ControlSuccess<Answer>.self, from: line), success.ok {
            return success.result
        }
        guard let failure = try? JSON.decode(ControlFailure.self, from: line), let text = failure.error else {
            throw .noAnswer(socket: path)
        }
        throw .refused(text)
    }

    /// How long to wait for a daemon to take the place of one that ended.
    private static let patienceSeconds = 20.0

    /// Connects; while a mount has a supervisor and no daemon, waits for the next one.
    private static func connectPatiently(_ path: String) throws(Failure) -> LineSocket {
        var outcome = attempt(path)
        var waited = 0.0
        while case .failure(.nobodyListens) = outcome, waited < patienceSeconds, isSupervised(socket: path) {
            usleep(10_000)
            waited += 0.01
            outcome = attempt(path)
        }
        return try outcome.get()
    }

    private static func attempt(_ path: String) -> Result<LineSocket, Failure> {
        Result { () throws(Failure) in try connect(path) }
    }

    /// Whether the store with this socket is mounted, and its lock is held: by a supervisor, if not by a daemon.
    private static func isSupervised(socket path: String) -> Bool {
        guard let slash = path.lastIndex(of: "/") else { return false }
        let store = String(path[..<slash])
        guard MountTable.mountedStores().contains(where: { $0.store == store }) else { return false }
        return !StoreLock.waitUntilFree(store: store, timeout: 0.001)
    }

    private static func connect(_ path: String) throws(Failure) -> LineSocket {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system("cannot create a socket: \(errnoMessage(errno))") }
        let connection = LineSocket(owning: descriptor)
        let code: Int32
        do {
            code = try SocketAddress.with(path) { Glibc.connect(descriptor, $0, $1) == 0 ? 0 : errno }
        } catch {
            throw .system(error.description)
        }
        switch code {
        case 0: return connection
        case ENOENT, ECONNREFUSED, ENOTDIR: throw .nobodyListens(socket: path)
        case EACCES, EPERM: throw .notPermitted(socket: path)
        default: throw .system("cannot connect to \(path): \(errnoMessage(code))")
        }
    }
}
