import Foundation
import Testing

@testable import KVStore

/// What `anira kv` and the stock lmdb-utils show. The stock tools look at live stores: they are other processes.
@Suite struct InspectionTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/kv/core/core-0" }

    private func live() throws -> KVStore {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 3, 2], name: "tea")
        try store.write(258, [4], name: "")
        store.settle()
        return store
    }

    /// Keys and values of a hex dump, in turn; the dump's header also tells the size of the map.
    private func dumped(_ database: String, _ path: String) throws -> [Substring] {
        try tool("mdb_dump", "-s", database, path).split(separator: "\n").filter { $0.hasPrefix(" ") }
    }

    @Test func mdbStatCountsTokensAndSessions() throws {
        let store = try live()
        defer { store.close() }
        let text = try tool("mdb_stat", "-e", "-a", "-r", "-f", path)
        for name in ["kv", "meta", "sessions"] { #expect(text.contains("Status of \(name)\n")) }
        #expect(try tool("mdb_stat", "-s", "kv", path).contains("Entries: 4\n"))
        #expect(try tool("mdb_stat", "-s", "sessions", path).contains("Entries: 2\n"))
        #expect(text.contains("Max readers: 512"))
    }

    @Test func mdbDumpShowsSessionPositionAndDeepestEntry() throws {
        let store = try live()
        defer { store.close() }
        let lines = try dumped("kv", path)
        let keys = stride(from: 0, to: lines.count, by: 2).map { String(lines[$0].dropFirst()) }
        #expect(
            keys == [
                "00000000000000010000000000", "00000000000000010000000102", "00000000000000010000000201",
                "00000000000001020000000003",
            ])
        // Header: version 2, f32, 3 entries, 2 layers, width 6.
        #expect(lines[3].hasPrefix(" 0200030206000000"))
    }

    @Test func metaIsReadableText() throws {
        let store = try live()
        defer { store.close() }
        let text = try tool("mdb_dump", "-p", "-s", "meta", path)
        #expect(text.contains(" fingerprint\n model-a\n"))
        #expect(text.contains(" schema\n 2\n"))
    }

    @Test func aCompactedCopyOfALiveStoreIsWhole() throws {
        let store = try live()
        let copy = "\(folder.path)/copy"
        try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
        _ = try tool("mdb_copy", "-c", path, copy)
        #expect(try dumped("kv", copy) == dumped("kv", path))
        store.close()
        let restored = try KVStore(configuration(copy))
        defer { restored.close() }
        #expect(try restored.resume(1, at: 3) == .ready)
        #expect(restored.shows(1, [1, 3, 2]))
    }

    @Test func aHexDumpLoadsBackWhole() throws {
        let store = try live()
        store.close()
        let (dump, copy) = ("\(folder.path)/dump", "\(folder.path)/copy")
        try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
        _ = try tool("mdb_dump", "-f", dump, "-a", path)
        _ = try tool("mdb_load", "-f", dump, copy)
        let restored = try KVStore(configuration(copy))
        defer { restored.close() }
        #expect(try restored.resume(1, at: 3) == .ready)
        #expect(restored.shows(1, [1, 3, 2]))
    }

    @Test func theInspectorDescribesStoreAndSessions() throws {
        try live().close()
        #expect(try KVInspector.environments(data: folder.path) == [path])
        let inspector = try KVInspector(path: path)
        let summary = try inspector.summary()
        #expect(summary.stage == "core" && summary.fingerprint == "model-a" && summary.dtype == "f32")
        #expect((summary.layers, summary.width, summary.maxEntries) == (2, 6, 4))
        #expect((summary.sessions, summary.tokens) == (2, 4))
        #expect(summary.recordBytes == 4 * 16 + 10 * 24 * 4)
        let sessions = try inspector.sessions()
        #expect(sessions.map(\.name) == ["tea", ""])
        #expect(sessions[0].positionsByEntries == [1, 1, 1, 0])
        #expect(sessions[0].meanEntries == 2)
        #expect(sessions[0].bytes == 3 * 16 + 6 * 24 * 4)
        #expect(sessions[0].fullDepthBytes == 3 * (16 + 4 * 24 * 4))
        #expect(try inspector.verify().problems.isEmpty)
    }

    @Test func thePositionsOfASessionShowTheirNorms() throws {
        try live().close()
        let positions = try KVInspector(path: path).positions(session: 1, 1..<3)
        #expect(positions.map(\.position) == [1, 2])
        #expect(positions.map(\.entries) == [3, 2])
        let keys = (12..<18).map { value(1, 1, 2, $0) }
        let norm = keys.reduce(0) { $0 + $1 * $1 }.squareRoot()
        #expect(abs(positions[0].keyNorms[2][1] - norm) < 1e-3 * norm)
        #expect(positions[0].valueNorms[2].count == 2)
    }

    @Test func aRecordAndASessionSurviveTheirEncodings() throws {
        let session = StoredSession(
            info: SessionInfo(name: "né", request: "r-1", number: 1 << 51), length: 70_000, created: 5,
            updated: 1 << 41, bytes: 9)
        #expect(session.encoded { StoredSession($0) } == session)
        // Version 1 had no number.
        let bytes = session.encoded { Array($0) }
        let older = ([1] + bytes[1..<32] + bytes[40...]).withUnsafeBytes { StoredSession($0) }
        #expect(older?.info == info("né", request: "r-1"))
        #expect(older?.length == 70_000)
        #expect([UInt8](repeating: 1, count: 31).withUnsafeBytes { StoredSession($0) } == nil)
        #expect(hex(Key.record(0x0102, 3, deepest: 4)) == "00000000000001020000000304")
        #expect(Key.record(7, 9, deepest: 2).withUnsafeBytes { Key.parse($0)?.position } == 9)
    }
}
