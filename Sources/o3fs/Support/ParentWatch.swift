import CSystem
import Glibc

/// A process that must not outlive the one that started it.
enum ParentWatch {
    /// Asks for SIGKILL when the parent dies, however it dies: any other signal waits as long as the process is
    /// stopped. For processes that have nothing to lose.
    ///
    /// - Returns: false when it is dead already.
    static func endWithParent() -> Bool {
        let parent = getppid()
        guard o3_set_parent_death_signal(SIGKILL) == 0 else { return true }
        // It may have died just before; then somebody else has become the parent.
        return getppid() == parent && parent != 1
    }
}
