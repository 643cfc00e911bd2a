/// What accesses to a memtable in far memory cost its owner, see `FabricDistance`. Only called when there is a distance.
extension Memtable {
    /// Waits for one round trip.
    @inline(never)
    func payForAccess() { fabric?.roundTrips(1) }

    /// Waits for the round trips of a search.
    ///
    /// - Parameter more: round trips beside it.
    @inline(never)
    func payForSearch(_ key: UnsafeRawBufferPointer, _ trailer: Trailer, more: Int = 0) {
        guard let fabric else { return }
        let start = monotonicNanoseconds()
        let map = self.map
        fabric.roundTrips(map.shards[map.route(key)].dependentReads(key, trailer) + more, since: start)
    }
}
