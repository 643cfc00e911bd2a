import Glibc

@testable import O3FileSystem

/// A file system as simple as can be, in a dictionary: what the real one is compared with. Its files
/// are known by numbers of its own; errors are the errno values POSIX and Linux give.
struct ModelFileSystem {
    struct File: Equatable {
        var isDirectory = false
        var target: String?
        var data: [UInt8] = []
        var entries: [String: Int] = [:]
        var parent = 0
        var links = 1
        var attributes: [String: [UInt8]] = [:]
        var mode: UInt32 = 0
    }

    struct Failure: Error, Equatable {
        let code: Int32
        init(_ code: Int32) { self.code = code }
    }

    private(set) var files: [Int: File] = [0: File(isDirectory: true, links: 2, mode: 0o755)]
    private var next = 1

    var directories: [Int] { files.filter { $0.value.isDirectory }.keys.sorted() }
    var regulars: [Int] { files.filter { !$0.value.isDirectory && $0.value.target == nil }.keys.sorted() }

    func find(_ directory: Int, _ name: String) throws -> Int {
        guard let found = files[directory]?.entries[name] else { throw Failure(ENOENT) }
        return found
    }

    mutating func make(_ directory: Int, _ name: String, _ file: File) throws -> Int {
        guard files[directory]?.entries[name] == nil else { throw Failure(EEXIST) }
        var file = file
        file.links = file.isDirectory ? 2 : 1
        file.parent = directory
        files[next] = file
        enter(directory, name, next)
        next += 1
        return next - 1
    }

    mutating func link(_ file: Int, _ directory: Int, _ name: String) throws {
        guard files[file]?.isDirectory == false else { throw Failure(EPERM) }
        guard files[directory]?.entries[name] == nil else { throw Failure(EEXIST) }
        enter(directory, name, file)
        files[file]?.links += 1
    }

    mutating func unlink(_ directory: Int, _ name: String) throws {
        let file = try find(directory, name)
        guard files[file]?.isDirectory == false else { throw Failure(EISDIR) }
        leave(directory, name)
        drop(file)
    }

    mutating func rmdir(_ directory: Int, _ name: String) throws {
        let file = try find(directory, name)
        guard files[file]?.isDirectory == true else { throw Failure(ENOTDIR) }
        guard files[file]?.entries.isEmpty == true else { throw Failure(ENOTEMPTY) }
        leave(directory, name)
        files[file] = nil
    }

    mutating func rename(_ from: Int, _ name: String, _ to: Int, _ newName: String, _ mode: RenameMode) throws {
        let source = try find(from, name)
        let target = files[to]?.entries[newName]
        let sourceIsDirectory = files[source]?.isDirectory == true
        let targetIsDirectory = target.flatMap { files[$0]?.isDirectory } == true
        if mode == .noReplace, target != nil { throw Failure(EEXIST) }
        if mode == .exchange {
            guard let target else { throw Failure(ENOENT) }
            if source == target { return }
            if sourceIsDirectory, isAncestor(source, of: to) { throw Failure(EINVAL) }
            if targetIsDirectory, isAncestor(target, of: from) { throw Failure(EINVAL) }
            leave(from, name)
            leave(to, newName)
            enter(from, name, target)
            enter(to, newName, source)
            return
        }
        if sourceIsDirectory, isAncestor(source, of: to) { throw Failure(EINVAL) }
        if let target {
            if source == target { return }
            if sourceIsDirectory {
                guard targetIsDirectory else { throw Failure(ENOTDIR) }
                guard files[target]?.entries.isEmpty == true else { throw Failure(ENOTEMPTY) }
            } else if targetIsDirectory {
                throw Failure(EISDIR)
            }
            leave(to, newName)
            if targetIsDirectory { files[target] = nil } else { drop(target) }
        }
        leave(from, name)
        enter(to, newName, source)
    }

    mutating func write(_ file: Int, _ offset: Int, _ bytes: [UInt8]) {
        guard !bytes.isEmpty else { return }
        grow(file, offset + bytes.count)
        files[file]?.data.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }

    mutating func resize(_ file: Int, _ size: Int) {
        grow(file, size)
        files[file]?.data.removeSubrange(size...)
    }

    mutating func zero(_ file: Int, _ range: Range<Int>, extends: Bool) {
        if extends { grow(file, range.upperBound) }
        let end = min(range.upperBound, files[file]?.data.count ?? 0)
        guard range.lowerBound < end else { return }
        files[file]?.data.replaceSubrange(
            range.lowerBound..<end,
            with: [UInt8](repeating: 0, count: end - range.lowerBound)
        )
    }

    mutating func setAttribute(_ file: Int, _ name: String, _ value: [UInt8]?) throws {
        guard value != nil || files[file]?.attributes[name] != nil else { throw Failure(ENODATA) }
        files[file]?.attributes[name] = value
    }

    mutating func setMode(_ file: Int, _ mode: UInt32) { files[file]?.mode = mode }

    private mutating func grow(_ file: Int, _ size: Int) {
        let count = files[file]?.data.count ?? 0
        if count < size { files[file]?.data += [UInt8](repeating: 0, count: size - count) }
    }

    private mutating func enter(_ directory: Int, _ name: String, _ file: Int) {
        files[directory]?.entries[name] = file
        guard files[file]?.isDirectory == true else { return }
        files[directory]?.links += 1
        files[file]?.parent = directory
    }

    private mutating func leave(_ directory: Int, _ name: String) {
        guard let file = files[directory]?.entries.removeValue(forKey: name) else { return }
        if files[file]?.isDirectory == true { files[directory]?.links -= 1 }
    }

    private mutating func drop(_ file: Int) {
        files[file]?.links -= 1
        if files[file]?.links == 0 { files[file] = nil }
    }

    private func isAncestor(_ directory: Int, of descendant: Int) -> Bool {
        var number = descendant
        while true {
            if number == directory { return true }
            if number == 0 { return false }
            number = files[number]?.parent ?? 0
        }
    }
}
