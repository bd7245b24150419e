import Testing

@testable import KVStore

/// Records that fill pages: what would need another one for a few bytes has those in its key.
@Suite("Records and pages")
struct PageTests {
    @Test(
        "The value is whole pages less LMDB's 16 bytes where that saves one",
        arguments: [
            (2064, 0), (4080, 0), (4081, 1), (4112, 32), (4336, 256), (4337, 0), (8176, 0), (12_304, 32), (24_592, 32),
        ])
    func cut(count: Int, end: Int) {
        #expect(Record.end(of: count, page: 4096) == end)
        #expect(Record.end(of: count + 16_384 - 4096, page: 16_384) == (count < 4337 ? end : 0))
    }

    /// One layer of width 512 is a page of float32 an entry.
    private let shape = CacheShape(layers: 1, width: 512, maxEntries: 3)

    private func written(_ path: String, _ type: StoredType = .f32, depths: [Int] = [1, 3, 2, 1]) throws -> KVStore {
        var wanted = configuration(path, shape: shape)
        wanted.storedType = type
        let store = try KVStore(wanted)
        #expect(try store.resume(7, at: 0) == .ready)
        #expect(store.extend(session: 7, by: depths.count))
        for (position, depth) in depths.enumerated() {
            for entry in 0..<depth { fill(store, position, entry) }
        }
        store.commit(session: 7, positions: 0..<depths.count) { _ in }
        store.settle()
        return store
    }

    private func fill(_ store: KVStore, _ position: Int, _ entry: Int, writing: Int = 0) {
        let row = store.arena + Int(store.appendEntry(session: 7, position: position)) * store.stride
        for byte in 0..<(shape.rowFloats * store.type.size) {
            row.storeBytes(
                of: UInt8(truncatingIfNeeded: byte &* 7 + position * 31 + entry * 5 + writing * 3), toByteOffset: byte,
                as: UInt8.self
            )
        }
    }

    @Test("A session comes back to the bit", arguments: StoredType.allCases)
    func comesBack(type: StoredType) throws {
        let folder = TemporaryFolder()
        try written(folder.path, type).close()
        var wanted = configuration(folder.path, shape: shape)
        wanted.storedType = type
        let store = try KVStore(wanted)
        defer { store.close() }
        #expect(try store.resume(7, at: 4) == .ready)
        for (position, depth) in [1, 3, 2, 1].enumerated() {
            for entry in 0..<depth {
                var row: [UInt32] = Array(repeating: 0, count: 4)
                store.visibleRows(session: 7, count: 4, deepest: entry, into: &row)
                let bytes = UnsafeRawBufferPointer(
                    start: store.arena + Int(row[position]) * store.stride, count: shape.rowFloats * type.size)
                let expected = bytes.indices.map { UInt8(truncatingIfNeeded: $0 &* 7 + position * 31 + entry * 5) }
                #expect(Array(bytes) == expected)
            }
        }
    }

    @Test("A record of k pages of keys and values takes k pages")
    func fits() throws {
        let folder = TemporaryFolder()
        try written(folder.path, depths: [Int](repeating: 1, count: 200)).close()
        let found = try tool("mdb_stat", "-s", "kv", folder.path)
        #expect(found.contains("Overflow pages: 200\n") && found.contains("Entries: 200\n"))
        let summary = try KVInspector(path: folder.path).summary()
        #expect(summary.recordBytes == 200 * 4112 && summary.storedOverRaw < 1.2)
    }

    @Test("Going back replaces a record, whatever its key ended in")
    func goesBack() throws {
        let folder = TemporaryFolder()
        let store = try written(folder.path)
        for writing in 1...3 {
            #expect(try store.resume(7, at: 1) == .ready)
            #expect(store.extend(session: 7, by: 1))
            fill(store, 1, 0, writing: writing)
            store.commit(session: 7, positions: 1..<2) { _ in }
            store.settle()
        }
        store.close()
        let inspector = try KVInspector(path: folder.path)
        #expect(try inspector.verify().records == 2 && inspector.verify().problems.isEmpty)
        #expect(try inspector.sessions().map(\.bytes) == [2 * 4112])
    }

    @Test("A key whose end is short, wrong or too long is found, and its position computed again")
    func damaged() throws {
        let damages: [(inout [UInt8]) -> Void] = [
            { $0.removeLast() }, { $0[20] ^= 1 }, { $0.append(0) },
        ]
        for damage in damages {
            let folder = TemporaryFolder()
            try written(folder.path).close()
            try edit(folder.path) { txn in
                var found: (key: [UInt8], value: [UInt8]) = ([], [])
                try txn.scan("kv", from: Key.position(7, 1)) { key, value in
                    found = (Array(key), Array(value))
                    return false
                }
                try txn.delete("kv", found.key)
                damage(&found.key)
                try txn.put("kv", found.key, found.value)
            }
            #expect(try KVInspector(path: folder.path).verify().problems.map(\.position) == [1])
            let store = try KVStore(configuration(folder.path, shape: shape))
            #expect(try store.resume(7, at: 4) == .needContext(from: 1))
            store.close()
        }
    }

    @Test("A store of schema 1 is read, looked into and written on")
    func earlier() throws {
        let folder = TemporaryFolder()
        try written(folder.path).close()
        // As it was: whole records under bare keys.
        try edit(folder.path) { txn in
            try txn.put("meta", Array("schema".utf8), Array("1".utf8))
            var records: [(key: [UInt8], value: [UInt8])] = []
            try txn.scan("kv", from: []) { key, value in
                records.append((Array(key), Array(value)))
                return true
            }
            for (key, value) in records {
                try txn.delete("kv", key)
                try txn.put("kv", Array(key.prefix(13)), value + key.dropFirst(13))
            }
        }
        #expect(try KVInspector(path: folder.path).verify().problems.isEmpty)
        #expect(try KVInspector(path: folder.path).summary().schema == "1")
        let store = try KVStore(configuration(folder.path, shape: shape))
        #expect(try store.resume(7, at: 4) == .ready)
        #expect(store.extend(session: 7, by: 1))
        fill(store, 4, 0)
        store.commit(session: 7, positions: 4..<5) { _ in }
        store.settle()
        store.close()
        let inspector = try KVInspector(path: folder.path)
        #expect(try inspector.summary().schema == "2" && inspector.verify().records == 5)
        #expect(try inspector.verify().problems.isEmpty)
    }
}
