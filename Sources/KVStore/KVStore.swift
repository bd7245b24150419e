import Foundation

/// Configuration of one stage's store.
public struct KVStoreConfiguration: Sendable {
    /// Environment folder, e.g. `data/kv/core/core-0`; nil: memory only.
    public var directory: String?
    /// "prelude", "core" or "coda".
    public var stage: String
    public var shape: CacheShape
    /// Of the model that writes; another one's store is refused.
    public var fingerprint: String
    /// Budget of the resident tier.
    public var residentBytes: Int
    public var durability: Durability
    /// What becomes of a damaged file.
    public var damage = Damage.stays
    /// How keys and values are held, in memory and in the file.
    public var storedType = StoredType.f32
    /// Address space of the LMDB map at first; it doubles when full.
    public var mapBytes = 64 << 30
    /// What unnamed sessions may keep on disk after their request ended. Pages they give back are written again: in a file
    /// that grows, each commit waits for the system to find new ones.
    public var keepBytes = 16 << 20
    public var keepAgeMS: UInt64 = 24 * 3600 * 1000
    /// How long a session that left memory for others is kept in any case: its request may still run.
    public var evictedAgeMS: UInt64 = 600 * 1000
    /// Unix milliseconds, for the sessions' stamps.
    public var clock: @Sendable () -> UInt64 = { UInt64(Date().timeIntervalSince1970 * 1000) }

    public init(
        directory: String?, stage: String, shape: CacheShape, fingerprint: String, residentBytes: Int,
        durability: Durability = .process
    ) {
        self.directory = directory
        self.stage = stage
        self.shape = shape
        self.fingerprint = fingerprint
        self.residentBytes = residentBytes
        self.durability = durability
    }
}

/// Whether a session is ready for work at a position.
public enum Residency: Equatable, Sendable {
    case ready
    /// Positions from here on are nowhere: replay them.
    case needContext(from: Int)
}

/// Counts and sizes of a store.
public struct KVStatistics: Sendable, Codable {
    public var residentSessions = 0
    public var residentBytes = 0
    public var budgetBytes = 0
    public var evictions = 0
    public var reloads = 0
    public var commits = 0
    public var records = 0
    /// Puts that could not append.
    public var fallbacks = 0
    public var mapUsedRatio = 0.0
}

/// The multi-depth cache of one stage: resident rows over LMDB records (docs/store.md).
///
/// Confined to one thread, the stage's compute thread; completions of `commit` and `drop` run on the writer thread.
/// A *position* has entries 0…n−1, each one arena row. Positions are added open (`extend`), filled (`appendEntry`)
/// and closed by `commit` or `abandon`.
public final class KVStore {
    public let shape: CacheShape
    private let configuration: KVStoreConfiguration
    private var resident: ResidentTier
    private let environment: Environment?
    private let writer: CommitQueue?
    private var reloads = 0
    /// Bytes of records ever written, at the last housekeeping.
    private var writtenWhenCollected = 0
    /// Sessions whose records from a position on are void: they go with the session's next commit.
    private var voids: [UInt64: Int] = [:]
    /// Records of the current step.
    private var group: [CommitQueue.Write] = []

    public init(_ configuration: KVStoreConfiguration) throws {
        self.configuration = configuration
        shape = configuration.shape
        resident = try ResidentTier(
            shape: configuration.shape, type: configuration.storedType, budget: configuration.residentBytes)
        guard let directory = configuration.directory else {
            (environment, writer) = (nil, nil)
            return
        }
        let environment = try Environment(
            path: directory, access: .owner(configuration.durability), names: Layout.databases,
            mapBytes: configuration.mapBytes, damage: configuration.damage)
        try Layout.claim(environment, configuration)
        self.environment = environment
        writer = CommitQueue(
            environment, mayCommitInline: configuration.durability == .process, clock: configuration.clock)
    }

    /// Row 0; never moves.
    public var arena: UnsafeMutableRawPointer { resident.arena }
    /// Bytes between rows.
    public var stride: Int { resident.stride }
    /// How the elements of rows are held.
    public var type: StoredType { configuration.storedType }

    /// Makes the session resident with exactly positions 0..<position. Later ones are forgotten, their records go
    /// with the session's next commit; missing ones are read back.
    ///
    /// trusted: positions that are the session's history where another request than `info.number` left them. What follows them
    /// may be of one that failed, or of a history that went on elsewhere, and is forgotten too.
    public func prepare(
        session id: UInt64, position: Int, persist: Bool, info: SessionInfo, trusted: Int = 0
    ) throws -> Residency {
        // After a failed commit what is resident has no complete copy; while it is at work it stays.
        if resident.sessions[id]?.openCount ?? 0 == 0, writer?.takeFailure(id) ?? false { resident.remove(id) }
        let session = try resident.touch(id) ?? admit(id)
        let kept = session.info.number == info.number ? position : min(position, trusted)
        session.info = info
        session.persist = persist && writer != nil
        if session.length > kept { resident.truncate(session, to: kept) }
        if session.persist, session.stored > kept { voids[id] = min(voids[id] ?? .max, kept) }
        return try session.length < position ? load(id, session, upTo: position) : .ready
    }

    private func admit(_ id: UInt64) throws -> ResidentTier.Session {
        let session = ResidentTier.Session(info: SessionInfo(name: "", request: ""), persist: false)
        if let environment, let writer {
            flush()
            writer.settle(id)
            try environment.read { txn in
                let stored = try txn.get("sessions", Key.session(id)) { StoredSession($0) }.flatMap(\.self)
                if let stored { session.info = stored.info }
                // The records themselves say how far they go; the session's own record may be damaged.
                let last = try txn.lastKey("kv", before: Key.session(id &+ 1)).flatMap { $0.withUnsafeBytes(Key.parse) }
                session.stored = last.map { $0.session == id ? $0.position + 1 : 0 } ?? 0
            }
        }
        resident.insert(id, session)
        return session
    }

    /// Reads records of positions session.length..<end back, as far as they are whole and of this store's type: what
    /// was computed from keys and values of another one is computed again.
    private func load(_ id: UInt64, _ session: ResidentTier.Session, upTo position: Int) throws -> Residency {
        let end = min(position, voids[id] ?? .max)
        guard session.persist, session.length < end, let environment, let writer else {
            return .needContext(from: session.length)
        }
        // What waits may void some of what is read.
        flush()
        writer.settle(id)
        reloads += 1
        try environment.read { txn in
            try txn.scan("kv", from: Key.position(id, session.length)) { key, value in
                guard let parts = Key.parse(key), parts.session == id, parts.position == session.length,
                    parts.position < end,
                    case .success(let record) = Record.parse(value, of: key, shape, deepest: parts.deepest),
                    record.type == type
                else { return false }
                guard resident.makeRoom(record.entries, keeping: id, mayDrop: mayDrop) else {
                    throw KVStoreError(
                        .full, "read back session \(id) of", path: environment.path,
                        advice: "it does not fit the resident budget; raise --resident-mib")
                }
                session.append(isOpen: false, maxEntries: shape.maxEntries)
                for entry in 0..<record.entries {
                    let row = resident.placeEntry(session, session.length - 1)
                    record.copy(entry, shape, to: arena + Int(row) * stride)
                }
                return session.length < end
            }
        }
        return session.length == position ? .ready : .needContext(from: session.length)
    }

    private func mayDrop(_ id: UInt64) -> Bool { !(writer?.isPending(id) ?? false) }

    /// Adds `count` open positions with room for all their entries, dropping least recently used sessions from
    /// memory if need be. False: no room now.
    public func extend(session id: UInt64, by count: Int) -> Bool {
        resident.extend(id, by: count, mayDrop: mayDrop)
    }

    /// The arena row for the next entry of an open position.
    public func appendEntry(session id: UInt64, position: Int) -> UInt32 {
        resident.appendEntry(resident.sessions[id]!, position: position)
    }

    /// Resident positions; nil when the session is not resident.
    public func length(session id: UInt64) -> Int? { resident.sessions[id]?.length }

    /// Whether work of this request at this position goes on from what is resident: `prepare` forgets nothing.
    public func follows(session id: UInt64, position: Int, request: UInt64) -> Bool {
        resident.sessions[id].map { $0.length == position && $0.info.number == request } ?? false
    }

    /// rows[j] = arena row of the deepest entry ≤ `deepest` of position j, for j in 0..<count. O(count).
    public func visibleRows(session id: UInt64, count: Int, deepest: Int, into rows: UnsafeMutablePointer<UInt32>) {
        let session = resident.sessions[id]!
        let limit = UInt8(min(deepest, shape.maxEntries - 1))
        let entries = shape.maxEntries
        session.rows.withUnsafeBufferPointer { table in
            session.counts.withUnsafeBufferPointer { counts in
                precondition(count <= counts.count)
                for j in 0..<count { rows[j] = table[j * entries + Int(min(limit, counts[j] &- 1))] }
            }
        }
    }

    /// Closes open positions; their records go with the next `flush`. `completion` runs after the commit that holds
    /// them, on the writer thread or in `flush`; at once for sessions that are not kept.
    public func commit(
        session id: UInt64, positions: Range<Int>, completion: @escaping @Sendable (KVStoreError?) -> Void
    ) {
        let session = resident.sessions[id]!
        for position in positions { resident.seal(session, position) }
        guard session.persist, let environment, writer != nil else { return completion(nil) }
        var write = CommitQueue.Write(session: id, info: session.info, completion: completion)
        write.voidFrom = voids.removeValue(forKey: id)
        write.records = positions.map { position in
            KeyedRecord(
                id, position, entries: Int(session.counts[position]), shape, type, page: environment.pageBytes
            ) { UnsafeRawPointer(arena + Int(session.rows[position * shape.maxEntries + $0]) * stride) }
        }
        write.length = positions.upperBound
        session.stored = max(write.voidFrom.map { min($0, session.stored) } ?? session.stored, positions.upperBound)
        group.append(write)
    }

    /// Commits what `commit` collected, many sessions in one transaction.
    public func flush() {
        guard !group.isEmpty, let writer else { return }
        writer.submit(group)
        group.removeAll(keepingCapacity: true)
    }

    /// Whether something handed over waits for its commit.
    public var isCommitting: Bool { !group.isEmpty || (writer?.isBusy ?? false) }

    /// Forgets open positions from `position` on: their work was given up.
    public func abandon(session id: UInt64, from position: Int) {
        if let session = resident.sessions[id] { resident.truncate(session, to: position) }
    }

    /// Drops a session from memory only.
    public func release(session id: UInt64) { resident.remove(id) }

    /// The same, or (drop) removes it.
    public func release(session id: UInt64, drop: Bool) {
        if drop { self.drop(session: id) } else { release(session: id) }
    }

    /// Removes a session from memory and store.
    public func drop(session id: UInt64, completion: @escaping @Sendable (KVStoreError?) -> Void = { _ in }) {
        resident.remove(id)
        voids[id] = nil
        guard let writer else { return completion(nil) }
        flush()
        writer.submit([
            CommitQueue.Write(
                session: id, info: SessionInfo(name: "", request: ""), kind: .drop, completion: completion)
        ])
    }

    /// Whether unnamed sessions may be well over their budget: half of it was written since the last housekeeping.
    public var hasGrown: Bool {
        guard let writer else { return false }
        return writer.figures.rawBytes - writtenWhenCollected > configuration.keepBytes / 2
    }

    /// From time to time: frees dead readers' slots, tries drops that failed again, and collects unnamed sessions over their
    /// budget. It reads every session's record.
    public func housekeeping() {
        guard let environment, let writer else { return }
        writtenWhenCollected = writer.figures.rawBytes
        environment.checkReaders()
        // One that is at work again is forgotten as far as it has to be.
        for session in writer.takeFailedDrops() where resident.sessions[session] == nil { drop(session: session) }
        writer.submit([
            CommitQueue.Write(
                session: .max, info: SessionInfo(name: "", request: ""),
                kind: .collect(
                    CommitQueue.Collection(
                        keepBytes: configuration.keepBytes, keepAgeMS: configuration.keepAgeMS,
                        resident: Set(resident.sessions.keys), evicted: resident.evicted,
                        evictedAgeMS: configuration.evictedAgeMS)), completion: { _ in })
        ])
    }

    public func statistics() -> KVStatistics {
        var s = KVStatistics()
        s.residentSessions = resident.sessions.count
        s.residentBytes = resident.usedRows * stride
        s.budgetBytes = resident.capacity * stride
        s.evictions = resident.evictions
        s.reloads = reloads
        if let figures = writer?.figures {
            s.commits = figures.commits
            s.records = figures.records
            s.fallbacks = figures.fallbacks
        }
        s.mapUsedRatio = environment?.mapUsedRatio ?? 0
        return s
    }

    /// Commits what waits. The store is not used afterwards.
    public func close() {
        flush()
        writer?.close()
        environment?.close()
    }
}
