// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "o3fs",
    products: [
        .executable(name: "o3fs", targets: ["o3fs"]),
        .library(name: "O3LSM", targets: ["O3LSM"]),
        .library(name: "O3FileSystem", targets: ["O3FileSystem"]),
        .library(name: "FUSE", targets: ["FUSE"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.1.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.1.0"),
    ],
    targets: [
        // Debian's C libraries, and the shims for what Swift cannot import. No logic.
        .systemLibrary(name: "CFUSE3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .target(name: "CSystem"),

        .target(
            name: "O3LSM",
            dependencies: ["CLZ4", "CSystem", .product(name: "Logging", package: "swift-log")]
        ),
        .target(name: "O3FileSystem", dependencies: ["O3LSM", "CSystem"]),
        .target(name: "FUSE", dependencies: ["CFUSE3", "CSystem"]),
        .executableTarget(
            name: "o3fs",
            dependencies: [
                "FUSE", "O3FileSystem", "O3LSM", "CSystem",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ]
        ),

        // A process that the engine's tests kill, and what both sides know of its work.
        .target(name: "CrashWorkload", dependencies: ["O3LSM"], path: "Tests/Support/CrashWorkload"),
        .executableTarget(
            name: "o3lsm-crashchild", dependencies: ["O3LSM", "CrashWorkload"], path: "Tests/Support/CrashChild"),
        .testTarget(name: "O3LSMTests", dependencies: ["O3LSM", "CSystem", "CrashWorkload", "o3lsm-crashchild"]),
        // A program that makes system calls on the mount and on another file system, and says what they did.
        .executableTarget(name: "posixprobe", path: "Tests/Support/POSIXProbe"),
        .testTarget(name: "O3FileSystemTests", dependencies: ["O3FileSystem", "O3LSM"]),
        .testTarget(name: "FUSETests", dependencies: ["FUSE", "CSystem"]),
        .testTarget(name: "o3fsTests", dependencies: ["o3fs", "FUSE", "O3FileSystem", "O3LSM"]),
        .testTarget(name: "POSIXTests", dependencies: ["posixprobe"], exclude: ["Scripts"]),
    ],
    swiftLanguageModes: [.v6]
)
