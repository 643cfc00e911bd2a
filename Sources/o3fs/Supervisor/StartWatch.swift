import Glibc

/// Tells a daemon that hangs from one that has much to do before it serves: recovery may take long, and uses the
/// processor or reads meanwhile.
struct StartWatch {
    private let process: pid_t
    private let patienceNanoseconds: UInt64
    private var last: Work
    private var began: UInt64

    /// What a process has done in its life.
    struct Work: Equatable {
        /// Of the processor, in hundredths of a second.
        var ticks: UInt64 = 0
        /// Asked for with read(2) and its like, from storage or not, and written.
        var bytes: UInt64 = 0
        /// Pages that were read for it.
        var pages: UInt64 = 0
    }

    /// Less than this part of the time on a processor is what threads need that only look whether there is work.
    private static let idleShare: UInt64 = 100
    private static let idleBytes: UInt64 = 1 << 20
    private static let idlePages: UInt64 = 256

    /// `patience`: how long it may do nothing. `now`: monotonic nanoseconds.
    init(_ process: pid_t, patienceSeconds: UInt32, now: UInt64) {
        self.process = process
        patienceNanoseconds = UInt64(patienceSeconds) * 1_000_000_000
        began = now
        last = Self.work(of: process)
    }

    /// Whether it has done nothing for as long as it may.
    mutating func isStuck(now: UInt64) -> Bool { isStuck(now: now, Self.work(of: process)) }

    mutating func isStuck(now: UInt64, _ work: Work) -> Bool {
        let elapsed = now - min(now, began)
        guard elapsed >= patienceNanoseconds else { return false }
        // What cannot be looked at has not been seen to do nothing.
        guard work != Work(), last != Work() else {
            (last, began) = (work, now)
            return false
        }
        let isIdle =
            work.ticks &- last.ticks < max(1, elapsed / 10_000_000 / Self.idleShare) && work.bytes &- last.bytes < Self.idleBytes
            && work.pages &- last.pages < Self.idlePages
        (last, began) = (work, now)
        return isIdle
    }

    /// Whether a child has ended and waits to be asked for. Needs no descriptor.
    static func hasEnded(_ child: pid_t) -> Bool {
        var info = siginfo_t()
        return waitid(P_PID, id_t(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_signo == SIGCHLD
    }

    /// What /proc says; nothing for a process that is gone.
    static func work(of process: pid_t) -> Work {
        var work = Work()
        // After the name, which may hold anything: state (0), …, majflt (9), …, utime (11), stime (12).
        let text = Files.text("/proc/\(process)/stat")
        if let end = text.lastIndex(of: ")") {
            let fields = text[text.index(after: end)...].split(separator: " ").map { UInt64($0) ?? 0 }
            if fields.count > 12 { (work.pages, work.ticks) = (fields[9], fields[11] &+ fields[12]) }
        }
        for line in Files.text("/proc/\(process)/io").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 2, ["rchar:", "wchar:"].contains(words[0]) else { continue }
            work.bytes &+= UInt64(words[1]) ?? 0
        }
        return work
    }
}
