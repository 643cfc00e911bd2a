import Glibc
import Testing

@testable import o3fs

@Suite struct ControlSocketTests {
    private struct Echo: Codable, Sendable, Equatable { var text: String }

    @Test func answersEachCommand() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { Echo(text: $0.command.rawValue) }
        defer { server.stop() }
        for command in ControlCommand.allCases {
            #expect(try ControlClient.request(command, at: path) == Echo(text: command.rawValue))
        }
    }

    @Test func passesOnTheSentenceOfAFailure() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { _ in throw CommandError("the disk is on fire") }
        defer { server.stop() }
        #expect(throws: ControlClient.Failure.refused("the disk is on fire")) {
            try ControlClient.request(.sync, at: path, as: ControlDone.self)
        }
    }

    @Test func socketIsClosedToOthers() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        defer { server.stop() }
        var info = stat()
        #expect(lstat(path, &info) == 0)
        #expect(info.st_mode & 0o7777 == 0o600)
    }

    @Test func saysThatNobodyListens() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        #expect(throws: ControlClient.Failure.nobodyListens(socket: path)) {
            try ControlClient.request(.status, at: path, as: ControlDone.self)
        }
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        server.stop()
        #expect(throws: ControlClient.Failure.nobodyListens(socket: path)) {
            try ControlClient.request(.status, at: path, as: ControlDone.self)
        }
    }

    @Test func replacesTheSocketOfADeadDaemon() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        let bound = try SocketAddress.with(path) { bind(dead, $0, $1) }
        #expect(bound == 0)
        close(dead)
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        defer { server.stop() }
        #expect(try ControlClient.request(.sync, at: path, as: ControlDone.self).done)
    }

    @Test func reachesAStoreWithALongPath() throws {
        let directory = try TemporaryDirectory("control")
        let deep = directory.path + "/" + String(repeating: "d", count: 200)
        mkdir(deep, 0o700)
        let path = ControlSocket.path(store: deep)
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        defer { server.stop() }
        #expect(try ControlClient.request(.sync, at: path, as: ControlDone.self).done)
    }

    @Test(arguments: ["hello", "{}", "{\"command\":\"destroy\"}", "[]", "\u{0}\u{ff}"])
    func refusesRequestsItDoesNotKnow(line: String) throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        defer { server.stop() }
        let connection = try rawConnection(path)
        #expect(connection.writeLine(line))
        let answer = try #require(connection.readLine(limit: 1 << 16))
        #expect(String(decoding: answer, as: UTF8.self).contains("\"ok\":false"))
        // The connection and the server go on.
        #expect(connection.writeLine("{\"command\":\"sync\"}"))
        let next = try #require(connection.readLine(limit: 1 << 16))
        #expect(String(decoding: next, as: UTF8.self).contains("\"ok\":true"))
    }

    @Test func cutsOffARequestWithoutEnd() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { _ in ControlDone() }
        defer { server.stop() }
        let connection = try rawConnection(path)
        _ = connection.writeLine(String(repeating: "x", count: 1 << 20))
        #expect(connection.readLine(limit: 1 << 16) == nil)
        #expect(try ControlClient.request(.sync, at: path, as: ControlDone.self).done)
    }

    @Test func slowRequestsDoNotBlockOthers() throws {
        let directory = try TemporaryDirectory("control")
        let path = ControlSocket.path(store: directory.path)
        let server = try ControlServer.start(path: path) { request in
            if request.command == .compact { sleep(60) }
            return ControlDone()
        }
        defer { server.stop() }
        let slow = try rawConnection(path)
        #expect(slow.writeLine("{\"command\":\"compact\"}"))
        #expect(try ControlClient.request(.sync, at: path, as: ControlDone.self).done)
    }

    private func rawConnection(_ path: String) throws -> LineSocket {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        let connection = LineSocket(owning: descriptor)
        let connected = try SocketAddress.with(path) { connect(descriptor, $0, $1) }
        guard connected == 0 else { throw SetupError("connect: \(errno)") }
        return connection
    }
}
