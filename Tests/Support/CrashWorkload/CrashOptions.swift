import O3LSM

extension CrashModel {
    /// Memtables and tables so small that a tenth of a second goes through every part of the engine.
    /// Every second seed has its memtables born in private memory.
    public static func options(seed: UInt64) -> Options {
        var options = Options()
        options.placement = seed % 2 == 0 ? .direct : .staged
        options.localBuffer = 2 << 20
        options.dmSize = 16 << 20
        options.memtableSize = 1 << 20
        options.shards = 2
        options.tableFileSize = 1 << 20
        options.levelBaseSize = 1 << 20
        options.cacheSize = 4 << 20
        options.blockSize = 4096
        options.logFileSize = 1 << 20
        options.commitIntervalMilliseconds = 10
        options.l0CompactionTrigger = 2
        return options
    }
}
