import Foundation
import KVStore

/// The Router's memory across restarts: named sessions and the answers to finished requests, in an LMDB environment
/// of its own (`data/router`). Written per finished request, never per token.
public final class Ledger: Sendable {
    private static let names = ["meta", "sessions", "results"]
    private let environment: Environment

    init(data: String, fingerprint: String) throws {
        environment = try Environment(
            path: "\(data)/router", access: .owner(.process), names: Self.names, mapBytes: 4 << 30)
        let found = try Self.fingerprint(environment)
        guard found == nil || found == fingerprint else {
            throw Self.foreign(environment.path, found: found ?? "", expected: fingerprint)
        }
        try environment.write { try $0.put("meta", Self.fingerprintKey, Array(fingerprint.utf8)) }
    }

    /// Throws when the data folder belongs to another model, before anything is started on it.
    public static func check(data: String, fingerprint: String) throws {
        guard FileManager.default.fileExists(atPath: "\(data)/router/data.mdb") else { return }
        let environment = try Environment(path: "\(data)/router", access: .reader, names: names)
        let found = try Self.fingerprint(environment)
        guard found == nil || found == fingerprint else {
            throw foreign(environment.path, found: found ?? "", expected: fingerprint)
        }
    }

    private static let fingerprintKey = Array("fingerprint".utf8)

    private static func fingerprint(_ environment: Environment) throws -> String? {
        try environment.read { try $0.get("meta", fingerprintKey) { String(decoding: $0, as: UTF8.self) } }
    }

    private static func foreign(_ path: String, found: String, expected: String) -> KVStoreError {
        KVStoreError(
            .foreign, "use", path: path,
            advice: "it was written with model \(found), this model is \(expected): "
                + "choose another --data folder or the model that wrote it")
    }

    func close() { environment.close() }

    func contents() throws -> LedgerContents {
        var contents = LedgerContents()
        let decoder = PropertyListDecoder()
        try environment.read { txn in
            try txn.scan("sessions", from: []) { key, value in
                let record = try decoder.decode(SessionRecord.self, from: Data(value))
                contents.sessions[String(decoding: key, as: UTF8.self)] = record
                return true
            }
            try txn.scan("results", from: []) { _, value in
                contents.results.append(try decoder.decode(ResultRecord.self, from: Data(value)))
                return true
            }
            let stored = try txn.get("meta", Array("next_session".utf8)) { String(decoding: $0, as: UTF8.self) }
            contents.nextSession = stored.flatMap { UInt64($0) } ?? 1
        }
        return contents
    }

    /// Sets aside session numbers below `end`, so that no later run hands one of them out again.
    func reserve(sessionsBelow end: UInt64) throws {
        try environment.write { try $0.put("meta", Array("next_session".utf8), Array("\(end)".utf8)) }
    }

    func put(session name: String, _ record: SessionRecord) throws {
        let value = try Self.encode(record)
        try environment.write { try $0.put("sessions", Array(name.utf8), value) }
    }

    func remove(session name: String) throws {
        _ = try environment.write { try $0.delete("sessions", Array(name.utf8)) }
    }

    /// Keyed by arrival, so that the oldest go first.
    func put(result record: ResultRecord) throws {
        let value = try Self.encode(record)
        let key = withUnsafeBytes(of: record.number.bigEndian) { Array($0) }
        try environment.write { try $0.put("results", key, value, appending: true) }
    }

    func remove(resultsThrough number: UInt64) throws {
        let last = withUnsafeBytes(of: number.bigEndian) { Array($0) }
        try environment.write { txn in
            try txn.deleteRange("results", from: [0]) { !last.lexicographicallyPrecedes($0) }
        }
    }

    private static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = PropertyListEncoder()
        encoder.outputFormat = .binary
        return Array(try encoder.encode(value))
    }
}
