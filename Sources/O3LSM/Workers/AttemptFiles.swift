/// The tables of attempts at jobs, from the moment they are described until they are tables of the store, or gone.
///
/// An executor writes under a name that carries its attempt (`StoreLayout.table(_:attempt:)`), which no other
/// attempt ever has; only the owner of the store gives a table its own name, once it has checked it. So an executor
/// that comes too late can neither replace nor remove a table, and what it leaves behind is known by its name.
/// Thread-safe.
struct AttemptFiles: Sendable {
    /// One table of an attempt. nil: it has been written under its own name.
    struct Name: Sendable {
        var number: UInt64
        var attempt: UInt64?
    }

    let storage: any Storage
    let layout: StoreLayout

    /// Gives checked tables their own names, durably. They were synced by who wrote them.
    ///
    /// - Throws: what storage throws; then some have their own names and some have not, and all are to be discarded.
    func install(_ names: [Name]) throws(EngineError) {
        guard !names.isEmpty else { return }
        FaultPoint.beforeRename.hit()
        for name in names where name.attempt != nil {
            try storage.rename(layout.table(name.number, attempt: name.attempt), to: layout.table(name.number))
        }
        try storage.syncDirectory(layout.tableDirectory)
    }

    /// Removes what may be there under either name. Best effort: recovery removes what no version names.
    func discard(_ name: Name) {
        if name.attempt != nil { try? storage.delete(layout.table(name.number, attempt: name.attempt)) }
        try? storage.delete(layout.table(name.number))
    }

    /// Removes all tables with such numbers, of whatever attempt. Best effort, as `discard`.
    func discard(_ numbers: (UInt64) -> Bool) {
        guard let names = try? storage.list(layout.tableDirectory) else { return }
        for name in names where StoreLayout.tableNumber(in: name).map(numbers) ?? false {
            try? storage.delete(layout.tableDirectory + "/" + name)
        }
    }
}
