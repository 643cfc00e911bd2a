#if THREAD_SANITIZER
    @testable import O3LSM

    /// The one that the sanitizer knows, see the engine's file of this name.
    typealias Mutex = O3LSM.Mutex
#endif
