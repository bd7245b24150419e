import Foundation

/// Looks into a store from outside: beside a live service, or at rest. Never changes it, except `collect`.
public final class KVInspector {
    /// Contents of `meta`, and sizes.
    public struct Summary: Codable, Sendable {
        public var path: String
        public var stage: String
        public var fingerprint: String
        public var schema: String
        public var dtype: String
        public var layers: Int
        public var width: Int
        public var maxEntries: Int
        public var sessions: Int
        /// Records: one a position.
        public var tokens: Int
        public var fileBytes: Int
        /// Bytes of all records' values.
        public var recordBytes: Int
        /// Bytes of the file over bytes of the floats in it.
        public var storedOverRaw: Double
    }

    public struct Session: Codable, Sendable {
        public var id: UInt64
        public var name: String
        public var request: String
        public var positions: Int
        /// Positions by number of entries: index 0 counts those with one.
        public var positionsByEntries: [Int]
        public var meanEntries: Double
        public var bytes: Int
        /// Bytes if every position kept all entries.
        public var fullDepthBytes: Int
        public var created: Double
        public var updated: Double
    }

    public struct Position: Codable, Sendable {
        public var session: UInt64
        public var position: Int
        public var entries: Int
        public var bytes: Int
        /// Per entry and layer: Euclidean norms of keys and values.
        public var keyNorms: [[Float]]
        public var valueNorms: [[Float]]
    }

    /// A record or session that is not what it should be.
    public struct Problem: Codable, Sendable {
        public var session: UInt64
        public var position: Int
        public var key: String
        public var problem: String
    }

    public let path: String
    private let environment: Environment
    private let shape: CacheShape
    private let meta: [String: String]

    /// path: an environment folder, e.g. `data/kv/core/core-0`.
    public convenience init(path: String) throws { try self.init(path: path, access: .reader) }

    private init(path: String, access: Environment.Access) throws {
        self.path = path
        environment = try Environment(path: path, access: access, names: Layout.databases)
        var meta: [String: String] = [:]
        try environment.read { txn in
            try txn.scan("meta", from: []) { key, value in
                meta[String(decoding: key, as: UTF8.self)] = String(decoding: value, as: UTF8.self)
                return true
            }
        }
        self.meta = meta
        guard Layout.canRead(schema: meta["schema"]) else {
            throw KVStoreError(
                .foreign, "read", path: path,
                advice: "its schema is \(meta["schema"] ?? "missing"), this program's is \(Layout.schema)")
        }
        func number(_ name: String, _ range: ClosedRange<Int>) throws -> Int {
            guard let value = meta[name].flatMap({ Int($0) }), range.contains(value) else {
                throw KVStoreError(
                    .damaged, "read", path: path,
                    advice: "its meta record '\(name)' is \(meta[name] ?? "missing"); restore a copy or remove it")
            }
            return value
        }
        shape = CacheShape(
            layers: try number("layers", 1...255), width: try number("width", 1...1 << 20),
            maxEntries: try number("entries", 1...255))
    }

    /// Environment folders under a data folder, `kv/<stage>/<worker>`, in order.
    public static func environments(data: String) throws -> [String] {
        let root = "\(data)/kv"
        guard let files = FileManager.default.subpaths(atPath: root) else {
            throw KVStoreError(.notFound, "find a store in", path: data, advice: "give the suite's --data folder")
        }
        // By either file of LMDB's: a store whose data.mdb is gone is not passed over.
        let folders = files.filter { $0.hasSuffix("/data.mdb") || $0.hasSuffix("/lock.mdb") }.map { $0.dropLast(9) }
        return Set(folders).map { "\(root)/\($0)" }.sorted()
    }

    public func summary() throws -> Summary {
        var bytes = 0
        let counts = try environment.read { txn in
            try txn.scan("kv", from: []) { key, value in
                bytes += Record.bytes(key: key.count, value: value.count)
                return true
            }
            return (sessions: try txn.count("sessions"), tokens: try txn.count("kv"))
        }
        let raw = bytes - counts.tokens * Record.headerBytes
        return Summary(
            path: path, stage: meta["stage"] ?? "", fingerprint: meta["fingerprint"] ?? "",
            schema: meta["schema"] ?? "", dtype: meta["dtype"] ?? "", layers: shape.layers, width: shape.width,
            maxEntries: shape.maxEntries, sessions: counts.sessions, tokens: counts.tokens,
            fileBytes: environment.usedBytes, recordBytes: bytes,
            storedOverRaw: raw > 0 ? Double(environment.usedBytes) / Double(raw) : 0)
    }

    public func sessions() throws -> [Session] {
        try environment.read { txn in
            var histograms: [UInt64: (counts: [Int], bytes: Int)] = [:]
            try txn.scan("kv", from: []) { key, value in
                guard let parts = Key.parse(key) else { return true }
                var known = histograms[parts.session] ?? ([Int](repeating: 0, count: shape.maxEntries), 0)
                if parts.deepest < known.counts.count { known.counts[parts.deepest] += 1 }
                known.bytes += Record.bytes(key: key.count, value: value.count)
                histograms[parts.session] = known
                return true
            }
            var sessions: [Session] = []
            try txn.scan("sessions", from: []) { key, value in
                guard key.count == 8, let stored = StoredSession(value) else { return true }
                let id = UInt64(bigEndian: key.loadUnaligned(as: UInt64.self))
                let found = histograms[id] ?? ([], 0)
                let positions = found.counts.reduce(0, +)
                let entries = found.counts.enumerated().reduce(0) { $0 + ($1.offset + 1) * $1.element }
                sessions.append(
                    Session(
                        id: id, name: stored.info.name, request: stored.info.request, positions: positions,
                        positionsByEntries: found.counts,
                        meanEntries: positions > 0 ? Double(entries) / Double(positions) : 0,
                        bytes: found.bytes,
                        fullDepthBytes: positions
                            * (Record.headerBytes + shape.maxEntries * shape.rowFloats * elementBytes),
                        created: Double(stored.created) / 1000, updated: Double(stored.updated) / 1000))
                return true
            }
            return sessions
        }
    }

    private var elementBytes: Int { StoredType(rawValue: meta["dtype"] ?? "")?.size ?? 4 }

    /// The positions of a session in `range`, with their entries' norms.
    public func positions(session: UInt64, _ range: Range<Int>) throws -> [Position] {
        var positions: [Position] = []
        let row = UnsafeMutablePointer<Float>.allocate(capacity: max(1, shape.rowFloats))
        defer { row.deallocate() }
        try environment.read { txn in
            try txn.scan("kv", from: Key.position(session, range.lowerBound)) { key, value in
                guard let parts = Key.parse(key), parts.session == session, parts.position < range.upperBound else {
                    return false
                }
                let record = try Record.parse(value, of: key, shape, deepest: parts.deepest).mapError { damage in
                    KVStoreError(
                        .damaged, "read position \(parts.position) of session \(session) in", path: path,
                        advice: "\(damage)")
                }.get()
                var shown = Position(
                    session: session, position: parts.position, entries: record.entries, bytes: record.count,
                    keyNorms: [], valueNorms: [])
                for entry in 0..<record.entries {
                    record.floats(entry, shape, to: row)
                    shown.keyNorms.append(norms(row, offset: 0))
                    shown.valueNorms.append(norms(row, offset: shape.width))
                }
                positions.append(shown)
                return true
            }
        }
        return positions
    }

    private func norms(_ row: UnsafePointer<Float>, offset: Int) -> [Float] {
        (0..<shape.layers).map { layer in
            let start = layer * 2 * shape.width + offset
            return (0..<shape.width).reduce(Float(0)) { $0 + row[start + $1] * row[start + $1] }.squareRoot()
        }
    }

    /// Checks every key, header and checksum, and that sessions are whole: no gaps, as long as their record says.
    public func verify() throws -> (records: Int, problems: [Problem]) {
        var records = 0
        var problems: [Problem] = []
        var last: (session: UInt64, position: Int)?
        var lengths: [UInt64: Int] = [:]
        func report(_ key: UnsafeRawBufferPointer, _ problem: String, session: UInt64 = 0, position: Int = 0) {
            problems.append(Problem(session: session, position: position, key: Self.hex(key), problem: problem))
        }
        try environment.read { txn in
            try txn.scan("kv", from: []) { key, value in
                records += 1
                guard let parts = Key.parse(key) else {
                    report(key, "the key is not one of a position")
                    return true
                }
                if case .failure(let damage) = Record.parse(value, of: key, shape, deepest: parts.deepest) {
                    report(key, "\(damage)", session: parts.session, position: parts.position)
                }
                let expected = last?.session == parts.session ? last!.position + 1 : 0
                if parts.position != expected {
                    report(
                        key, "position \(expected) is missing before it", session: parts.session,
                        position: parts.position)
                }
                last = (parts.session, parts.position)
                lengths[parts.session, default: 0] += 1
                return true
            }
            try txn.scan("sessions", from: []) { key, value in
                guard key.count == 8 else {
                    report(key, "the key is not one of a session")
                    return true
                }
                let id = UInt64(bigEndian: key.loadUnaligned(as: UInt64.self))
                let found = lengths.removeValue(forKey: id) ?? 0
                let stored = StoredSession(value)
                if stored?.length != found {
                    let said = stored.map { "says \($0.length) positions, there are \(found)" } ?? "cannot be read"
                    report(key, "the session's record \(said)", session: id, position: found)
                }
                return true
            }
        }
        for (id, count) in lengths.sorted(by: { $0.key < $1.key }) {
            withUnsafeBytes(of: id.bigEndian) {
                report($0, "\(count) positions of a session without a record", session: id)
            }
        }
        return (records, problems)
    }

    private static func hex(_ key: UnsafeRawBufferPointer) -> String {
        key.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    /// Removes unnamed sessions older than `ageSeconds`, then the oldest beyond `keepBytes` (below 0: all); returns
    /// how many. Only while no service owns the store.
    public static func collect(path: String, keepBytes: Int, ageSeconds: Double) throws -> Int {
        let inspector = try KVInspector(path: path, access: .owner(.process))
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        return try inspector.environment.write { txn in
            let age = UInt64(max(0, ageSeconds) * 1000)
            let ids = try CommitQueue.collectable(keepBytes, age, now: now, txn)
            for (id, _) in ids { try CommitQueue.delete(id, txn) }
            return ids.count
        }
    }
}
