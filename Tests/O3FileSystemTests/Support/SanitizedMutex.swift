#if THREAD_SANITIZER
    import Synchronization

    /// The engine's own of this name, which testable imports would bring in, is for the engine.
    typealias Mutex = Synchronization.Mutex
#endif
