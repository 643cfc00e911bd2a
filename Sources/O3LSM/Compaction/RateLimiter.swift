import Glibc
import Synchronization

/// A token bucket: lets background work read and write so many bytes a second. Thread-safe; threads that
/// share it share the rate.
///
/// A caller takes its tokens at once and then sleeps off the debt, so that requests larger than the
/// bucket pass, too.
final class RateLimiter: Sendable {
    private struct State {
        /// Tokens at `time`; negative: a debt that callers are sleeping off.
        var tokens: Double
        var time: ContinuousClock.Instant
        var bytesPerSecond: Double
    }

    private let state: Mutex<State>
    /// Seconds of the rate that an idle bucket saves up.
    private static let burstSeconds = 0.1

    /// - Parameter bytesPerSecond: at least 1.
    init(bytesPerSecond: UInt64) {
        state = Mutex(State(tokens: 0, time: .now, bytesPerSecond: Double(max(1, bytesPerSecond))))
    }

    /// Changes the rate for what is taken from now on.
    func setRate(bytesPerSecond: UInt64) {
        state.withLock { $0.bytesPerSecond = Double(max(1, bytesPerSecond)) }
    }

    /// Takes `bytes` and sleeps until they are due; returns early, with the tokens
    /// taken, when `shouldStop` says so.
    func acquire(_ bytes: UInt64, shouldStop: () -> Bool = { false }) {
        let due = state.withLock { state -> Double in
            let now = ContinuousClock.now
            let elapsed = (now - state.time).inSeconds
            state.tokens = min(
                state.tokens + elapsed * state.bytesPerSecond, state.bytesPerSecond * Self.burstSeconds)
            state.time = now
            state.tokens -= Double(bytes)
            return state.tokens < 0 ? -state.tokens / state.bytesPerSecond : 0
        }
        guard due > 0 else { return }
        let end = ContinuousClock.now + .seconds(due)
        while !shouldStop() {
            let left = (end - .now).inSeconds
            if left <= 0 { return }
            usleep(UInt32(min(left, 0.25) * 1_000_000) + 1)
        }
    }
}

extension Duration {
    fileprivate var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
