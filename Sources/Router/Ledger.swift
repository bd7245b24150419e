import Foundation
import KVStore

/// The Router's memory across restarts: named sessions and the answers to finished requests, in an LMDB environment
/// of its own (`data/router`). Written per finished request, its answer and its session at once, never per token.
public final class Ledger: Sendable {
    static let names = ["meta", "sessions", "results"]
    private let environment: Environment

    init(data: String, fingerprint: String, durability: Durability) throws {
        environment = try Environment(
            path: "\(data)/router", access: .owner(durability), names: Self.names, mapBytes: 4 << 30)
        try Self.refuse(environment, unlessOf: fingerprint)
        try environment.write { try $0.put("meta", Self.fingerprintKey, Array(fingerprint.utf8)) }
    }

    /// Throws when the data folder belongs to another model, before anything is started on it.
    public static func check(data: String, fingerprint: String) throws {
        guard FileManager.default.fileExists(atPath: "\(data)/router/data.mdb") else { return }
        try refuse(Environment(path: "\(data)/router", access: .reader, names: names), unlessOf: fingerprint)
    }

    private static let fingerprintKey = Array("fingerprint".utf8)

    /// One that holds nothing was made by a suite that was started with wrong options, and belongs to any model.
    private static func refuse(_ environment: Environment, unlessOf fingerprint: String) throws {
        try environment.read { txn in
            let found = try txn.get("meta", fingerprintKey) { String(decoding: $0, as: UTF8.self) }
            guard let found, found != fingerprint, try txn.count("sessions") + txn.count("results") > 0 else { return }
            throw KVStoreError(
                .foreign, "use", path: environment.path,
                advice: "it was written with model \(found), this model is \(fingerprint): "
                    + "choose another --data folder, or the model and --weights that wrote it")
        }
    }

    func close() { environment.close() }

    func contents() throws -> LedgerContents {
        var contents = LedgerContents()
        try environment.read { txn in
            try txn.scan("sessions", from: []) { key, value in
                let name = String(decoding: key, as: UTF8.self)
                contents.sessions[name] = try decode(SessionRecord.self, value, Array(key), "the session '\(name)'")
                return true
            }
            try txn.scan("results", from: []) { key, value in
                contents.results.append(try decode(ResultRecord.self, value, Array(key), "a remembered answer"))
                return true
            }
            let stored = try txn.get("meta", Array("next_session".utf8)) { String(decoding: $0, as: UTF8.self) }
            contents.nextSession = stored.flatMap { UInt64($0) } ?? 1
            let owed = try txn.get("meta", Self.owedKey) {
                try decode([String: [UInt64]].self, $0, Self.owedKey, "drops owed to workers")
            }
            contents.owedDrops = owed ?? [:]
        }
        return contents
    }

    /// Sets aside session numbers below `end`, so that no later run hands one of them out again.
    func reserve(sessionsBelow end: UInt64) throws {
        try environment.write { try $0.put("meta", Array("next_session".utf8), Array("\(end)".utf8)) }
    }

    func put(owedDrops: [String: [UInt64]]) throws {
        let value = try Self.encode(owedDrops, key: Self.owedKey)
        try environment.write { try $0.put("meta", Self.owedKey, value) }
    }

    /// All of it, or nothing.
    func put(_ endings: some Sequence<Ending>) throws {
        let encoded = try endings.map { ending in
            // By arrival, so that the oldest go first.
            let answer = try ending.answer.map { answer in
                let key = withUnsafeBytes(of: answer.number.bigEndian) { Array($0) }
                return (key: key, value: try Self.encode(answer, key: key))
            }
            let session = try ending.session.map { session in
                // As Swift compares names: those that look the same are one.
                let key = Array(session.name.precomposedStringWithCanonicalMapping.utf8)
                return (key, try session.record.map { try Self.encode($0, key: key) })
            }
            return (answer, session)
        }
        try environment.write { txn in
            for (answer, session) in encoded {
                if let (key, value) = answer { try txn.put("results", key, value, appending: true) }
                if let (key, value) = session {
                    if let value { try txn.put("sessions", key, value) } else { _ = try txn.delete("sessions", key) }
                }
            }
        }
    }

    func remove(resultsThrough number: UInt64) throws {
        let last = withUnsafeBytes(of: number.bigEndian) { Array($0) }
        try environment.write { txn in
            try txn.deleteRange("results", from: [0]) { !last.lexicographicallyPrecedes($0) }
        }
    }

    private static let owedKey = Array("owed_drops".utf8)

    private static func encode(_ value: some Encodable, key: [UInt8]) throws -> [UInt8] {
        let encoder = PropertyListEncoder()
        encoder.outputFormat = .binary
        return Sealed.seal(try encoder.encode(value), key: key)
    }

    /// what: named in the error.
    private func decode<Value: Decodable>(
        _ type: Value.Type, _ bytes: UnsafeRawBufferPointer, _ key: [UInt8], _ what: String
    ) throws -> Value {
        let damage = KVStoreError(
            .damaged, "read \(what) in", path: environment.path,
            advice: "data.mdb is damaged: restore a copy or move it away, which forgets answers and sessions")
        // Those of earlier releases have no checksum.
        let value = bytes.starts(with: "bplist00".utf8) ? Data(bytes) : Sealed.open(bytes, key: key)
        guard let value else { throw damage }
        do { return try PropertyListDecoder().decode(type, from: value) } catch { throw damage }
    }
}
