import Glibc
import Synchronization

/// Answers requests on a store's control socket, from threads of its own, until `stop` is called.
///
/// The socket has mode 0600, and a peer whose user is neither root nor the one the daemon runs as is
/// turned away, whatever the directory's permissions say. Requests of different connections run
/// concurrently: the handler must be thread-safe.
final class ControlServer: Sendable {
    typealias Handler = @Sendable (ControlRequest) throws -> any Codable & Sendable

    let path: String
    private let listener: Int32
    private let handler: Handler
    private let state = Mutex(State())

    private struct State {
        var stopped = false
        var connections = 0
    }

    /// More clients than this at once are turned away: each one holds a thread.
    private static let maximumConnections = 32

    /// Begins to listen at `path`. A socket that a dead daemon left there is replaced: the caller owns
    /// the store's lock, so nobody else can be listening.
    ///
    /// Call it after the last fork: threads do not survive one.
    static func start(path: String, handler: @escaping Handler) throws -> ControlServer {
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard listener >= 0 else { throw CommandError("create a control socket", errno: errno) }
        unlink(path)
        do {
            // Linux gives the socket's file the mode of the descriptor that is bound: closed to others from
            // its first moment. The umask would do it too, but it belongs to all threads of the process.
            guard fchmod(listener, 0o600) == 0 else {
                throw CommandError("close the control socket \(path) to others", errno: errno)
            }
            let bound = try SocketAddress.with(path) { bind(listener, $0, $1) == 0 ? 0 : errno }
            guard bound == 0 else { throw CommandError("create the control socket \(path)", errno: bound) }
        } catch {
            close(listener)
            throw error
        }
        guard listen(listener, 16) == 0 else {
            let code = errno
            close(listener)
            throw CommandError("listen on the control socket \(path)", errno: code)
        }
        let server = ControlServer(path: path, listener: listener, handler: handler)
        try spawnThread("o3-control") { server.acceptLoop() }
        return server
    }

    private init(path: String, listener: Int32, handler: @escaping Handler) {
        self.path = path
        self.listener = listener
        self.handler = handler
    }

    /// Takes no further connections and removes the socket. Requests that run are not waited for.
    func stop() {
        let wasStopped = state.withLock { state in
            defer { state.stopped = true }
            return state.stopped
        }
        guard !wasStopped else { return }
        unlink(path)
        // Wakes the accepting thread, which closes the listener.
        shutdown(listener, Int32(SHUT_RDWR))
    }

    private func acceptLoop() {
        defer { close(listener) }
        while true {
            let descriptor = accept(listener, nil, nil)
            if descriptor < 0 {
                if state.withLock({ $0.stopped }) { return }
                // Out of descriptors or interrupted: the next client may have more luck.
                if errno != EINTR { usleep(10_000) }
                continue
            }
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
            serve(LineSocket(owning: descriptor))
        }
    }

    private func serve(_ connection: LineSocket) {
        guard let peer = connection.peer(), peer.uid == 0 || peer.uid == geteuid() else {
            _ = connection.writeLine(Self.failure("only the owner of the store and root may use its control socket"))
            return
        }
        let admitted = state.withLock { state in
            guard state.connections < Self.maximumConnections else { return false }
            state.connections += 1
            return true
        }
        guard admitted else {
            _ = connection.writeLine(Self.failure("too many clients use the control socket at once"))
            return
        }
        // Handed to one thread, which is its only user from here on.
        nonisolated(unsafe) let connection = connection
        do {
            try spawnThread("o3-control") {
                self.answerAll(connection)
                self.state.withLock { $0.connections -= 1 }
            }
        } catch {
            state.withLock { $0.connections -= 1 }
        }
    }

    private func answerAll(_ connection: LineSocket) {
        while let line = connection.readLine(limit: ControlSocket.maximumRequestBytes) {
            guard connection.writeLine(answer(line)) else { return }
        }
    }

    private func answer(_ line: [UInt8]) -> String {
        guard let request = try? JSON.decode(ControlRequest.self, from: line) else {
            let known = ControlCommand.allCases.map(\.rawValue).joined(separator: ", ")
            return Self.failure("a request must be {\"command\": one of \(known)}")
        }
        do {
            return try Self.success(try handler(request))
        } catch {
            return Self.failure("\(error)")
        }
    }

    private static func success<T: Codable>(_ result: T) throws -> String {
        try JSON.encode(ControlSuccess(result: result))
    }

    private static func failure(_ text: String) -> String {
        (try? JSON.encode(ControlFailure(error: text))) ?? #"{"ok":false,"error":"unknown"}"#
    }
}
