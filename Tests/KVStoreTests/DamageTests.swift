import Foundation
import Kernels
import Testing

@testable import KVStore

@Suite struct DamageTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/core-0" }

    private func stored(_ entries: [Int]) throws {
        let store = try KVStore(configuration(path))
        try store.write(1, entries)
        store.close()
    }

    /// Header bytes (version, type, entries, layers, width, checksum) and floats alike.
    @Test(arguments: [0, 1, 2, 3, 4, 8, 16, 16 + 24 * 4 * 2 - 1])
    func aFlippedByteIsReportedAndNeverServed(offset: Int) throws {
        try stored([2, 2, 2, 2])
        let key = Key.record(1, 2, deepest: 1)
        try edit(path) { txn in
            var value = try #require(try txn.get("kv", key))
            value[offset] ^= 0x10
            try txn.put("kv", key, value)
        }
        let problems = try KVInspector(path: path).verify().problems
        #expect(problems.map(\.key) == [hex(key)])
        #expect(problems.map(\.position) == [2])
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 4) == .needContext(from: 2))
        #expect(store.shows(1, [2, 2]))
    }

    /// All of `meta` is written at once: what lacks a part of it is damaged, not another model's.
    @Test(arguments: ["schema", "fingerprint", "width"])
    func recordsWithoutAllOfMetaAreDamaged(key: String) throws {
        try stored([2, 2])
        try edit(path) { try $0.delete("meta", Array(key.utf8)) }
        let error = #expect(throws: KVStoreError.self) { try KVStore(configuration(path)) }
        #expect(error?.code == .damaged && error?.description.contains("its \(key) is missing") == true)
    }

    /// Pages that came back from earlier, or in one another's place, hold records that are whole.
    @Test func aRecordUnderAnotherPositionsKeyIsReportedAndNeverServed() throws {
        try stored([2, 2, 2])
        let keys = [1, 2].map { Key.record(1, $0, deepest: 1) }
        try edit(path) { txn in
            let values = try keys.map { try #require(try txn.get("kv", $0)) }
            for (key, value) in zip(keys, values.reversed()) { try txn.put("kv", key, value) }
        }
        #expect(try KVInspector(path: path).verify().problems.map(\.position) == [1, 2])
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 3) == .needContext(from: 1))
    }

    @Test func recordsOfTheFirstVersionAreRead() throws {
        try stored([2, 2])
        try edit(path) { txn in
            for position in 0..<2 {
                let key = Key.record(1, position, deepest: 1)
                var value = try #require(try txn.get("kv", key))
                value[0] = 1
                let sum = value.withUnsafeBytes {
                    anira_crc32c(anira_crc32c(0, $0.baseAddress, 8), $0.baseAddress! + 16, $0.count - 16)
                }
                value.replaceSubrange(8..<12, with: withUnsafeBytes(of: sum.littleEndian) { Array($0) })
                try txn.put("kv", key, value)
            }
        }
        #expect(try KVInspector(path: path).verify().problems.isEmpty)
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 2) == .ready)
        #expect(store.shows(1, [2, 2]))
    }

    @Test(arguments: [0, 15, 16, 100])
    func aRecordCutShortIsReportedAndNeverServed(size: Int) throws {
        try stored([2, 2])
        let key = Key.record(1, 1, deepest: 1)
        try edit(path) { txn in
            let value = try #require(try txn.get("kv", key))
            try txn.put("kv", key, Array(value.prefix(size)))
        }
        #expect(try KVInspector(path: path).verify().problems.count == 1)
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 2) == .needContext(from: 1))
    }

    @Test func aRecordUnderAnotherDepthsKeyIsNotServed() throws {
        try stored([2, 2])
        try edit(path) { txn in
            let value = try #require(try txn.get("kv", Key.record(1, 1, deepest: 1)))
            try txn.delete("kv", Key.record(1, 1, deepest: 1))
            try txn.put("kv", Key.record(1, 1, deepest: 3), value)
        }
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 2) == .needContext(from: 1))
    }

    @Test func aFlippedByteInTheFileIsReportedAndNeverServed() throws {
        try stored([3, 3, 3])
        let file = URL(fileURLWithPath: "\(path)/data.mdb")
        var bytes = try Data(contentsOf: file)
        var needle = Data()
        for index in 0..<24 { withUnsafeBytes(of: value(1, 1, 2, index)) { needle.append(contentsOf: $0) } }
        var places = 0
        var from = bytes.startIndex
        while let found = bytes.range(of: needle, in: from..<bytes.endIndex) {
            bytes[found.lowerBound + 40] ^= 1
            places += 1
            from = found.upperBound
        }
        #expect(places > 0)
        try bytes.write(to: file)
        #expect(try KVInspector(path: path).verify().problems.map(\.position) == [1])
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 3) == .needContext(from: 1))
    }

    @Test func aMissingRecordNeedsContextFromThere() throws {
        try stored([1, 1, 1, 1])
        try edit(path) { try $0.delete("kv", Key.record(1, 2, deepest: 0)) }
        #expect(try KVInspector(path: path).verify().problems.contains { $0.position == 3 })
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(1, at: 4) == .needContext(from: 2))
    }

    /// Neither was looked at.
    @Test func positionsWithoutTheirSessionAndStrayKeysAreReported() throws {
        try stored([1, 1, 1])
        let session = withUnsafeBytes(of: UInt64(1).bigEndian) { Array($0) }
        try edit(path) { txn in
            try txn.delete("sessions", session)
            try txn.put("sessions", [1, 2], [0])
        }
        let problems = try KVInspector(path: path).verify().problems
        #expect(problems.map(\.session) == [0, 1])
        #expect(problems.last?.problem == "3 positions of a session without a record")
    }

    @Test func recomputedPositionsReplaceTheDamagedOnes() throws {
        try stored([1, 2, 3, 4])
        try edit(path) { try $0.put("kv", Key.record(1, 1, deepest: 1), [1, 2, 3]) }
        let store = try KVStore(configuration(path))
        #expect(try store.resume(1, at: 4) == .needContext(from: 1))
        try store.write(1, at: 1, [4, 4], writing: 1)
        store.close()
        #expect(try storedKeys(path) == [[1, 0, 0], [1, 1, 3], [1, 2, 3]])
        #expect(try KVInspector(path: path).verify().problems.isEmpty)
    }

    @Test func aFileThatIsNoEnvironmentIsRefused() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try Data(repeating: 0x41, count: 20_000).write(to: URL(fileURLWithPath: "\(path)/data.mdb"))
        #expect(throws: KVStoreError.self) { try KVStore(configuration(path)) }
        #expect(throws: KVStoreError.self) { try KVInspector(path: path) }
    }
}
