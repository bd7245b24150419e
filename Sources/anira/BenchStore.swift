import ArgumentParser
import CLMDB
import Foundation
import Histogram
import KVStore
import Messaging
import Synchronization

struct BenchStore: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store",
        abstract: "Commits of the key-value store against raw LMDB putting as many bytes, interleaved.",
        discussion: """
            A position's record holds its entries, keys and values of one layer each. Every commit holds one position of \
            each session, and is waited for. Raw LMDB has one database and no session records.
            """)
    @Option(help: "Hidden size: an entry is twice as many floats.") var hidden = 512
    @Option(help: "Entries of a position.") var entries = 4
    @Option(help: "Comma-separated numbers of sessions that commit together.") var sessions = "1,32"
    @Option(help: "process or power.") var durability = Durability.process
    @Option(help: "Commits of each round.") var commits = 200
    @Option(help: "Interleaved rounds.") var rounds = 3
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var sessions: Int
        /// Microseconds a commit.
        var storeP50, storeP99, rawP50, rawP99: Double
        /// Positions per second, and the median of the rounds' ratios to raw LMDB.
        var positionsPerSecond: Double
        var overRaw: Double
    }

    func validate() throws {
        guard (1...8192).contains(hidden), (1...64).contains(entries), (1...100_000).contains(commits),
            (1...10_000).contains(rounds)
        else {
            throw ValidationError("--hidden must be 1…8192, --entries 1…64, --commits 1…100000, --rounds 1…10000")
        }
    }

    func run() throws {
        let counts = try integers(sessions, "--sessions").map(Int.init)
        guard counts.allSatisfy({ (1...1024).contains($0) }), !counts.isEmpty else {
            throw ValidationError("--sessions must be numbers of 1…1024")
        }
        let rows = try withBenchFolder { folder in
            try counts.map { try measure($0, folder.appendingPathComponent("\($0)").path) }
        }
        progress(nil)
        if json { return try printJSON(BenchReport(rows)) }
        print(heading("\(entries) entries of \(8 * hidden) bytes a position, durability \(durability.rawValue)"))
        print("sessions   store p50    p99 µs   raw LMDB p50    p99 µs   positions/s   of raw")
        for row in rows {
            print(
                String(
                    format: "%8d%12.0f%10.0f%15.0f%10.0f%14.0f%8.2f", row.sessions, row.storeP50, row.storeP99,
                    row.rawP50, row.rawP99, row.positionsPerSecond, row.overRaw))
        }
    }

    private func measure(_ count: Int, _ folder: String) throws -> Row {
        var configuration = KVStoreConfiguration(
            directory: "\(folder)/store", stage: "core",
            shape: CacheShape(layers: 1, width: hidden, maxEntries: entries + 1), fingerprint: "bench",
            residentBytes: (rounds + 1) * commits * count * entries * 8 * hidden * 2, durability: durability)
        configuration.keepBytes = .max
        let store = try KVStore(configuration)
        defer { store.close() }
        let raw = try RawLMDB("\(folder)/raw", durability)
        let record = [UInt8](repeating: 7, count: entries * 8 * hidden)
        var times = (
            store: Histogram<UInt64>(highestTrackableValue: 60_000_000_000),
            raw: Histogram<UInt64>(highestTrackableValue: 60_000_000_000)
        )
        var ratios: [Double] = []
        var rates: [Double] = []
        for round in 0..<rounds {
            progress("\(count) sessions, round \(round + 1) of \(rounds)")
            var spent = (store: 0.0, raw: 0.0)
            for index in (round * commits)..<((round + 1) * commits) {
                try fill(store, sessions: count, position: index)
                let ours = try seconds { try commit(store, sessions: count, position: index) }
                let theirs = try seconds { try raw.put(record, sessions: count, position: index) }
                spent.store += ours
                spent.raw += theirs
                times.store.record(UInt64(ours * 1e9))
                times.raw.record(UInt64(theirs * 1e9))
            }
            ratios.append(spent.raw / spent.store)
            rates.append(Double(commits * count) / spent.store)
        }
        return Row(
            sessions: count, storeP50: times.store.micros(50), storeP99: times.store.micros(99),
            rawP50: times.raw.micros(50), rawP99: times.raw.micros(99), positionsPerSecond: median(rates),
            overRaw: median(ratios))
    }

    private final class Done: Sendable {
        let left: Atomic<Int>
        let failed = Mutex<KVStoreError?>(nil)
        let wakeup = DispatchSemaphore(value: 0)
        init(_ count: Int) { left = Atomic(count) }
    }

    /// The rows of one position of every session, in memory.
    private func fill(_ store: KVStore, sessions: Int, position: Int) throws {
        for session in 1...UInt64(sessions) {
            _ = try store.prepare(
                session: session, position: position, persist: true, info: SessionInfo(name: "", request: "bench"))
            guard store.extend(session: session, by: 1) else {
                throw RequestFailure(code: "STORE_FULL", message: "the resident budget is too small; lower --commits")
            }
            for _ in 0..<entries {
                let row = store.appendEntry(session: session, position: position)
                (store.arena + Int(row) * store.stride).initializeMemory(
                    as: Float.self, repeating: 1, count: 2 * hidden)
            }
        }
    }

    /// Back when all are acknowledged.
    private func commit(_ store: KVStore, sessions: Int, position: Int) throws {
        let done = Done(sessions)
        for session in 1...UInt64(sessions) {
            store.commit(session: session, positions: position..<(position + 1)) { error in
                if let error { done.failed.withLock { $0 = error } }
                if done.left.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { done.wakeup.signal() }
            }
        }
        store.flush()
        done.wakeup.wait()
        if let error = done.failed.withLock({ $0 }) { throw error }
    }
}

/// LMDB with nothing around it: what the store's commits are compared with.
private final class RawLMDB {
    private var environment: OpaquePointer?
    private var database: MDB_dbi = 0

    init(_ path: String, _ durability: Durability) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try check(mdb_env_create(&environment))
        mdb_env_set_mapsize(environment, 16 << 30)
        try check(mdb_env_open(environment, path, durability == .process ? UInt32(MDB_NOSYNC) : 0, 0o600))
        var transaction: OpaquePointer?
        try check(mdb_txn_begin(environment, nil, 0, &transaction))
        try check(mdb_dbi_open(transaction, nil, 0, &database))
        try check(mdb_txn_commit(transaction))
    }

    deinit { mdb_env_close(environment) }

    func put(_ record: [UInt8], sessions: Int, position: Int) throws {
        var transaction: OpaquePointer?
        try check(mdb_txn_begin(environment, nil, 0, &transaction))
        for session in 1...UInt64(sessions) {
            var name = (session.bigEndian, UInt64(position).bigEndian)
            try record.withUnsafeBytes { bytes in
                try withUnsafeMutableBytes(of: &name) { name in
                    var key = MDB_val(mv_size: name.count, mv_data: name.baseAddress)
                    var value = MDB_val(
                        mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
                    try check(mdb_put(transaction, database, &key, &value, 0))
                }
            }
        }
        try check(mdb_txn_commit(transaction))
    }

    private func check(_ result: Int32) throws {
        guard result == 0 else {
            throw RequestFailure(code: "INTERNAL", message: "raw LMDB: \(String(cString: mdb_strerror(result)))")
        }
    }
}
