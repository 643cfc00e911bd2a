import O3LSM
import Testing

@testable import O3FileSystem

@Test func filesAndDirectoriesComeAndGo() throws {
    let fs = try FileSystem(MemoryStore())
    let directory = try fs.mkdir(rootInode, "a").inode
    let file = try fs.touch(directory, "f").inode
    try fs.put(file, 0, pattern(10_000))
    #expect(try fs.get(file) == pattern(10_000))
    #expect(try fs.names(rootInode) == ["a"])
    #expect(try fs.resolve("/a/f").size == 10_000)
    try fs.remove(directory, "f")
    try fs.rmdir(rootInode, "a")
    #expect(try fs.names(rootInode) == [])
}
