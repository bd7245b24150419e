import Foundation

/// The rows of resident sessions: an arena of equal rows, and per session a table of which row holds which entry.
/// A lookup is an index computation, nothing is copied into deeper slots, memory is proportional to mean depth.
struct ResidentTier: ~Copyable {
    /// One session's positions. A position is open while its entries are still being added: its room up to
    /// maxEntries is reserved, and the session is not dropped.
    final class Session {
        var info: SessionInfo
        var persist: Bool
        /// [position × maxEntries + entry] → arena row
        fileprivate(set) var rows: [UInt32] = []
        /// Entries of each position.
        fileprivate(set) var counts: [UInt8] = []
        /// Whether a position is open, and how many are.
        private(set) var isOpen: [Bool] = []
        private(set) var openCount = 0
        /// Positions that may have records in LMDB: below this.
        var stored = 0
        var lastUse: UInt64 = 0
        var length: Int { counts.count }

        init(info: SessionInfo, persist: Bool) {
            self.info = info
            self.persist = persist
        }

        /// Adds a position with room for so many entries.
        func append(isOpen: Bool, maxEntries: Int) {
            self.isOpen.append(isOpen)
            if isOpen { openCount += 1 }
            counts.append(0)
            rows.append(contentsOf: repeatElement(0, count: maxEntries))
        }

        /// False: it was closed already.
        func close(_ position: Int) -> Bool {
            guard isOpen[position] else { return false }
            isOpen[position] = false
            openCount -= 1
            return true
        }

        /// The last position, which is closed.
        func removeLast(maxEntries: Int) {
            isOpen.removeLast()
            counts.removeLast()
            rows.removeLast(maxEntries)
        }
    }

    let shape: CacheShape
    let arena: UnsafeMutableRawPointer
    /// Bytes between rows: a whole number of cache lines.
    let stride: Int
    let capacity: Int
    private let mappedBytes: Int
    private var untouched = 0
    private var free: [UInt32] = []
    private var reserved = 0
    private var clock: UInt64 = 0
    private(set) var sessions: [UInt64: Session] = [:]
    private(set) var evictions = 0
    /// Unnamed sessions that made room for others: they may come back, until they are removed.
    private(set) var evicted: Set<UInt64> = []

    /// budget: bytes of rows; address space only until they are used.
    init(shape: CacheShape, type: StoredType, budget: Int) throws {
        self.shape = shape
        stride = (shape.rowFloats * type.size + 63) / 64 * 64
        capacity = max(1, budget / stride)
        mappedBytes = capacity * stride
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let base = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, Int32(flags), -1, 0), base != MAP_FAILED else {
            throw KVStoreError(.system, "map", path: "\(mappedBytes) bytes for the resident cache", result: errno)
        }
        madvise(base, mappedBytes, Int32(MADV_HUGEPAGE))
        arena = base
    }

    deinit { munmap(arena, mappedBytes) }

    var freeRows: Int { capacity - untouched + free.count - reserved }
    var usedRows: Int { untouched - free.count }

    mutating func touch(_ id: UInt64) -> Session? {
        clock += 1
        sessions[id]?.lastUse = clock
        return sessions[id]
    }

    mutating func insert(_ id: UInt64, _ session: Session) {
        clock += 1
        session.lastUse = clock
        sessions[id] = session
        evicted.remove(id)
    }

    /// Appends `count` open positions. Drops least recently used sessions for room; `mayDrop` says which may go.
    mutating func extend(_ id: UInt64, by count: Int, mayDrop: (UInt64) -> Bool) -> Bool {
        let needed = count * shape.maxEntries
        guard makeRoom(needed, keeping: id, mayDrop: mayDrop), let session = sessions[id] else { return false }
        reserved += needed
        for _ in 0..<count { session.append(isOpen: true, maxEntries: shape.maxEntries) }
        return true
    }

    /// True when `needed` rows are free, dropping sessions if that helps.
    mutating func makeRoom(_ needed: Int, keeping id: UInt64, mayDrop: (UInt64) -> Bool) -> Bool {
        guard needed <= capacity else { return false }
        while freeRows < needed {
            let candidates = sessions.filter { $0.key != id && $0.value.openCount == 0 && $0.value.length > 0 }
            let oldest = candidates.sorted { $0.value.lastUse < $1.value.lastUse }.first { mayDrop($0.key) }
            guard let oldest else { return false }
            remove(oldest.key)
            evictions += 1
            if oldest.value.info.name.isEmpty { evicted.insert(oldest.key) }
        }
        return true
    }

    /// A row for the next entry of an open position, out of its reservation.
    mutating func appendEntry(_ session: Session, position: Int) -> UInt32 {
        precondition(session.isOpen[position] && Int(session.counts[position]) < shape.maxEntries)
        reserved -= 1
        return placeEntry(session, position)
    }

    /// A row for the next entry of a position that is loaded from a record; the caller has made room.
    mutating func placeEntry(_ session: Session, _ position: Int) -> UInt32 {
        let row: UInt32
        if let reused = free.popLast() {
            row = reused
        } else {
            row = UInt32(untouched)
            untouched += 1
        }
        session.rows[position * shape.maxEntries + Int(session.counts[position])] = row
        session.counts[position] += 1
        return row
    }

    /// Ends the adding of entries: gives back what was reserved and not used.
    mutating func seal(_ session: Session, _ position: Int) {
        guard session.close(position) else { return }
        reserved -= shape.maxEntries - Int(session.counts[position])
    }

    mutating func truncate(_ session: Session, to length: Int) {
        while session.length > length {
            let position = session.length - 1
            seal(session, position)
            for entry in 0..<Int(session.counts[position]) {
                free.append(session.rows[position * shape.maxEntries + entry])
            }
            session.removeLast(maxEntries: shape.maxEntries)
        }
    }

    mutating func remove(_ id: UInt64) {
        evicted.remove(id)
        guard let session = sessions.removeValue(forKey: id) else { return }
        truncate(session, to: 0)
    }
}
