import Foundation

/// The writer thread: groups waiting writes into one transaction each round and completes them after its commit.
/// One environment has one writer, and it never blocks the compute thread except when too much waits.
final class CommitQueue: @unchecked Sendable {  // all state is guarded by `condition`
    /// One write of one session.
    struct Write: Sendable {
        var session: UInt64
        /// Records from this position on are void.
        var voidFrom: Int?
        /// Positions ascending.
        var records: [KeyedRecord] = []
        var length = 0
        var info: SessionInfo
        var kind = Kind.put
        var completion: @Sendable (KVStoreError?) -> Void

        enum Kind: Sendable { case put, drop, collect(Collection) }
        var bytes: Int { records.reduce(256) { $0 + $1.count } }
    }

    /// Which unnamed sessions go: those over the age, then the oldest over the bytes; none that may be at work.
    struct Collection: Sendable {
        var keepBytes: Int
        var keepAgeMS: UInt64
        var resident: Set<UInt64>
        /// At work until they have not been written for so long.
        var evicted: Set<UInt64>
        var evictedAgeMS: UInt64
    }

    /// Counts since start.
    struct Figures: Sendable {
        var commits = 0
        var records = 0
        var fallbacks = 0
        var rawBytes = 0
    }

    private static let mostWaitingBytes = 256 << 20
    private static let mostInlineBytes = 256 << 10
    private let mayCommitInline: Bool
    private var busy = false
    /// Threads other than the writer that wait for a change.
    private var sleepers = 0
    private let condition = NSCondition()
    private let environment: Environment
    private let clock: @Sendable () -> UInt64
    private var waiting: [Write] = []
    private var waitingBytes = 0
    private var pending: [UInt64: Int] = [:]
    private var failed: Set<UInt64> = []
    private var failedDrops: [UInt64] = []
    private var stopping = false
    private var ended = false
    private var counts = Figures()

    /// clock: Unix milliseconds, for the sessions' stamps.
    /// mayCommitInline: commits cost microseconds, not the disk's time.
    init(_ environment: Environment, mayCommitInline: Bool, clock: @escaping @Sendable () -> UInt64) {
        self.environment = environment
        self.mayCommitInline = mayCommitInline
        self.clock = clock
        let thread = Thread { [self] in run() }
        thread.name = "commit"
        thread.start()
    }

    /// Hands a group of writes over: one transaction, or part of a larger one. A small group is committed by the
    /// calling thread when the writer is idle: waking another thread takes longer than the commit.
    func submit(_ group: [Write]) {
        let bytes = group.reduce(0) { $0 + $1.bytes }
        let inline = condition.withLock {
            while waitingBytes > Self.mostWaitingBytes { sleep() }
            for write in group { pending[write.session, default: 0] += 1 }
            if mayCommitInline, !busy, waiting.isEmpty, bytes <= Self.mostInlineBytes {
                busy = true
                return true
            }
            waiting += group
            waitingBytes += bytes
            condition.broadcast()
            return false
        }
        if inline { commit(group) }
    }

    /// Whether anything waits for its commit.
    var isBusy: Bool { condition.withLock { busy || !waiting.isEmpty } }

    /// Whether writes of the session wait for their commit.
    func isPending(_ session: UInt64) -> Bool { condition.withLock { pending[session] != nil } }

    /// Returns once nothing of the session waits.
    func settle(_ session: UInt64) {
        condition.withLock { while pending[session] != nil { sleep() } }
    }

    /// True once after a write of the session failed: what is resident has no complete copy.
    func takeFailure(_ session: UInt64) -> Bool { condition.withLock { failed.remove(session) != nil } }

    /// Sessions whose drop failed since the last call.
    func takeFailedDrops() -> [UInt64] {
        condition.withLock {
            defer { failedDrops.removeAll() }
            return failedDrops
        }
    }

    var figures: Figures { condition.withLock { counts } }

    /// Commits what waits, then ends the thread.
    func close() {
        condition.withLock {
            stopping = true
            condition.broadcast()
            while !ended { sleep() }
        }
    }

    private func run() {
        while let batch = next() { commit(batch) }
        condition.withLock {
            ended = true
            condition.broadcast()
        }
    }

    /// Only by whoever set `busy`.
    private func commit(_ batch: [Write]) {
        var failure: KVStoreError?
        var figures = Figures()
        do {
            figures = try environment.write { txn in
                var figures = Figures()
                for write in batch { try apply(write, txn, &figures) }
                return figures
            }
        } catch let error as KVStoreError {
            failure = error
        } catch {
            failure = KVStoreError(.system, "write to (\(error))", path: environment.path)
        }
        for write in batch { write.completion(failure) }
        finish(batch, failure, figures)
    }

    private func next() -> [Write]? {
        condition.withLock {
            while busy || waiting.isEmpty {
                if stopping, !busy { return nil }
                condition.wait()
            }
            busy = true
            defer {
                waiting.removeAll(keepingCapacity: true)
                waitingBytes = 0
                condition.broadcast()
            }
            return waiting
        }
    }

    private func finish(_ batch: [Write], _ failure: KVStoreError?, _ figures: Figures) {
        condition.withLock {
            for write in batch {
                let left = (pending[write.session] ?? 1) - 1
                pending[write.session] = left == 0 ? nil : left
                guard failure != nil else { continue }
                switch write.kind {
                case .put: failed.insert(write.session)
                case .drop: failedDrops.append(write.session)
                case .collect: break  // the next one has the same to do
                }
            }
            busy = false
            if failure == nil {
                counts.commits += 1
                counts.records += figures.records
                counts.fallbacks += figures.fallbacks
                counts.rawBytes += figures.rawBytes
            }
            // Waking the writer for nothing would cost more than the commit did.
            if sleepers > 0 || !waiting.isEmpty || stopping { condition.broadcast() }
        }
    }

    /// Waits for a change; called with the lock held, not by the writer.
    private func sleep() {
        sleepers += 1
        condition.wait()
        sleepers -= 1
    }
}

// MARK: - Inside the transaction

extension CommitQueue {
    private func apply(_ write: Write, _ txn: borrowing Transaction, _ figures: inout Figures) throws {
        switch write.kind {
        case .put: try put(write, txn, &figures)
        case .drop: try Self.delete(write.session, txn)
        case .collect(let collection): try collect(collection, txn)
        }
    }

    private func put(_ write: Write, _ txn: borrowing Transaction, _ figures: inout Figures) throws {
        try withUnsafeBytes(of: write.session.bigEndian) { try put(write, key: $0, txn, &figures) }
    }

    /// key: of the session.
    private func put(
        _ write: Write, key: UnsafeRawBufferPointer, _ txn: borrowing Transaction, _ figures: inout Figures
    ) throws {
        let now = clock()
        var stored =
            try txn.get("sessions", key) { StoredSession($0, info: write.info) }.flatMap(\.self)
            ?? StoredSession(info: write.info, length: 0, created: now, updated: now, bytes: 0)
        if let from = write.voidFrom {
            let removed = try txn.deleteRange("kv", from: Key.position(write.session, from)) {
                Key.parse($0)?.session == write.session
            }
            stored.bytes = max(0, stored.bytes - removed.bytes + removed.count * Key.recordBytes)
        }
        for record in write.records {
            let outcome = try record.withBytes { try txn.put("kv", $0, $1, appending: true) }
            if outcome == .inserted { figures.fallbacks += 1 }
            figures.records += 1
            figures.rawBytes += record.count
            stored.bytes += record.count
        }
        // Chunks of a session may end out of order.
        stored.length = max(write.voidFrom.map { min($0, stored.length) } ?? stored.length, write.length)
        stored.updated = now
        try stored.encoded { _ = try txn.put("sessions", key, $0) }
    }

    /// Removes a session in bounded steps of one transaction.
    static func delete(_ session: UInt64, _ txn: borrowing Transaction) throws {
        while try txn.deleteRange(
            "kv", from: Key.position(session, 0), limit: 1024, while: { Key.parse($0)?.session == session }
        ).count == 1024 {}
        try txn.delete("sessions", Key.session(session))
    }

    private func collect(_ c: Collection, _ txn: borrowing Transaction) throws {
        for (id, age) in try Self.collectable(c.keepBytes, c.keepAgeMS, now: clock(), txn) {
            let mayBeAtWork = c.resident.contains(id) || (c.evicted.contains(id) && age <= c.evictedAgeMS)
            if !mayBeAtWork { try Self.delete(id, txn) }
        }
    }

    /// Unnamed sessions over the age, then the oldest over the bytes, and for how many milliseconds none was written.
    static func collectable(
        _ keepBytes: Int, _ keepAgeMS: UInt64, now: UInt64, _ txn: borrowing Transaction
    ) throws -> [(id: UInt64, age: UInt64)] {
        var unnamed: [(id: UInt64, session: StoredSession)] = []
        try txn.scan("sessions", from: []) { key, value in
            if key.count == 8, let session = StoredSession(value), session.info.name.isEmpty {
                unnamed.append((UInt64(bigEndian: key.loadUnaligned(as: UInt64.self)), session))
            }
            return true
        }
        unnamed.sort { $0.session.updated > $1.session.updated }
        var kept = 0
        return unnamed.compactMap { id, session in
            kept = min(kept + session.bytes, StoredSession.mostBytes)
            let age = now > session.updated ? now - session.updated : 0
            return age > keepAgeMS || kept > keepBytes ? (id, age) : nil
        }
    }
}
