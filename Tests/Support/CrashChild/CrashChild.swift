import CrashWorkload
@preconcurrency import Glibc
import O3LSM

/// A process that is there to be killed: it opens a store and writes to it from several threads until
/// somebody, or a fault point, ends it. `o3lsm-crashchild STORE REPORT SEED`
@main struct CrashChild {
    static func main() {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let seed = UInt64(arguments[3]), let report = CrashReport(path: arguments[2]) else {
            exit(64)
        }
        alarm(20)  // Not even a lost parent leaves it behind.
        do throws(EngineError) {
            let database = try Database.open(arguments[1], options: CrashModel.options(seed: seed))
            report.isReady = true
            for thread in 0..<CrashModel.threads {
                Thread.start { write(database, report, CrashModel(seed: seed, thread: thread)) }
            }
            disturb(database)
        } catch {
            fputs("\(error)\n", stderr)
            exit(70)
        }
    }

    /// Writes one operation after the other.
    private static func write(_ database: Database, _ report: CrashReport, _ model: CrashModel) {
        let batch = WriteBatch()
        var index = report.returned(model.thread).pointee.load(ordering: .acquiring)
        do throws(EngineError) {
            while true {
                batch.clear()
                model.fill(batch, index, observed: report.allReturned())
                report.begun(model.thread).pointee.store(index + 1, ordering: .releasing)
                try database.write(batch)
                index += 1
                report.returned(model.thread).pointee.store(index, ordering: .releasing)
                if index % 61 == 0 { try sync(database, report) }
            }
        } catch {
            fputs("thread \(model.thread): \(error)\n", stderr)
            exit(70)
        }
    }

    private static func sync(_ database: Database, _ report: CrashReport) throws(EngineError) {
        let covered = report.allReturned()
        try database.sync()
        for (thread, count) in covered.enumerated() {
            _ = report.synced(thread).pointee.max(count, ordering: .acquiringAndReleasing)
        }
    }

    /// Flushes and compacts now and then.
    private static func disturb(_ database: Database) -> Never {
        var random = SplitMix(UInt64(getpid()))
        while true {
            usleep(UInt32(5_000 + random.below(40_000)))
            do throws(EngineError) {
                if random.below(8) == 0 { try database.compact() } else { try database.flush() }
            } catch {
                fputs("flush: \(error)\n", stderr)
                exit(70)
            }
        }
    }
}

/// A detached thread.
private enum Thread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    static func start(_ run: @escaping @Sendable () -> Void) {
        var handle = pthread_t()
        let body = Unmanaged.passRetained(Body(run))
        pthread_create(
            &handle, nil,
            { context in
                if let context { Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run() }
                return nil
            }, body.toOpaque())
    }
}
