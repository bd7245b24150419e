import CLMDB
import Foundation

/// A view of an environment, alive only inside the closure it is handed to.
public struct Transaction: ~Copyable {
    let txn: OpaquePointer
    let databases: [String: MDB_dbi]
    let path: String

    /// How a put that was meant to append ended.
    public enum PutOutcome: Sendable { case appended, inserted }

    private func database(_ name: String) throws -> MDB_dbi {
        guard let database = databases[name] else {
            throw KVStoreError(.notFound, "find database '\(name)' of", path: path)
        }
        return database
    }

    private func check(_ result: Int32, _ attempted: String) throws {
        guard result == MDB_SUCCESS else { throw KVStoreError(lmdb: result, attempted, path: path) }
    }

    /// The value of `key`, valid during `body`; nil when there is none.
    public func get<R>(
        _ name: String, _ key: some ContiguousBytes, _ body: (UnsafeRawBufferPointer) throws -> R
    ) throws -> R? {
        try withValue(key) { key in
            var value = MDB_val()
            let result = mdb_get(txn, try database(name), &key, &value)
            if result == MDB_NOTFOUND { return nil }
            try check(result, "read from")
            return try body(value.bytes)
        }
    }

    public func get(_ name: String, _ key: [UInt8]) throws -> [UInt8]? {
        try get(name, key) { Array($0) }
    }

    /// Writes key and value. appending: the key is expected after all others, which fills pages; when it is not,
    /// it is inserted where it belongs.
    @discardableResult
    public func put(
        _ name: String, _ key: some ContiguousBytes, _ value: some ContiguousBytes, appending: Bool = false
    ) throws -> PutOutcome {
        let database = try database(name)
        return try withValue(key) { key in
            try withValue(value) { value in
                if appending {
                    let result = mdb_put(txn, database, &key, &value, UInt32(MDB_APPEND))
                    if result == MDB_SUCCESS { return .appended }
                    guard result == MDB_KEYEXIST else { throw KVStoreError(lmdb: result, "write to", path: path) }
                }
                try check(mdb_put(txn, database, &key, &value, 0), "write to")
                return .inserted
            }
        }
    }

    /// False when there was no such key.
    @discardableResult
    public func delete(_ name: String, _ key: [UInt8]) throws -> Bool {
        try withValue(key) { key in
            let result = mdb_del(txn, try database(name), &key, nil)
            if result == MDB_NOTFOUND { return false }
            try check(result, "delete from")
            return true
        }
    }

    /// Visits keys from `start` on in order until `body` returns false.
    public func scan(
        _ name: String, from start: [UInt8],
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try withCursor(name) { cursor in
            try withValue(start) { key in
                var value = MDB_val()
                var result = mdb_cursor_get(cursor, &key, &value, start.isEmpty ? MDB_FIRST : MDB_SET_RANGE)
                while result == MDB_SUCCESS {
                    guard try body(key.bytes, value.bytes) else { return }
                    result = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
                }
                if result != MDB_NOTFOUND { try check(result, "scan") }
            }
        }
    }

    /// The last key before `bound`; nil when there is none.
    public func lastKey(_ name: String, before bound: [UInt8]) throws -> [UInt8]? {
        var last: [UInt8]?
        try withCursor(name) { cursor in
            try withValue(bound) { key in
                var value = MDB_val()
                let found = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE)
                if found != MDB_NOTFOUND { try check(found, "scan") }
                let result = mdb_cursor_get(cursor, &key, &value, found == MDB_SUCCESS ? MDB_PREV : MDB_LAST)
                if result == MDB_NOTFOUND { return }
                try check(result, "scan")
                last = Array(key.bytes)
            }
        }
        return last
    }

    /// Deletes keys from `start` on while `matches`, at most `limit`; returns how many and the bytes of their
    /// keys and values.
    @discardableResult
    public func deleteRange(
        _ name: String, from start: [UInt8], limit: Int = .max, while matches: (UnsafeRawBufferPointer) -> Bool
    ) throws -> (count: Int, bytes: Int) {
        var deleted = (count: 0, bytes: 0)
        try withCursor(name) { cursor in
            try withValue(start) { key in
                var value = MDB_val()
                var result = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE)
                while result == MDB_SUCCESS, deleted.count < limit, matches(key.bytes) {
                    deleted.count += 1
                    deleted.bytes += key.mv_size + value.mv_size
                    try check(mdb_cursor_del(cursor, 0), "delete from")
                    result = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
                }
                if result != MDB_NOTFOUND { try check(result, "scan") }
            }
        }
        return deleted
    }

    /// Number of keys.
    public func count(_ name: String) throws -> Int {
        var stat = MDB_stat()
        try check(mdb_stat(txn, try database(name), &stat), "count")
        return stat.ms_entries
    }

    private func withCursor(_ name: String, _ body: (OpaquePointer) throws -> Void) throws {
        var cursor: OpaquePointer?
        try check(mdb_cursor_open(txn, try database(name), &cursor), "open a cursor on")
        defer { mdb_cursor_close(cursor) }
        try body(cursor!)
    }

    private func withValue<R>(_ bytes: some ContiguousBytes, _ body: (inout MDB_val) throws -> R) rethrows -> R {
        try bytes.withUnsafeBytes {
            var value = MDB_val(mv_size: $0.count, mv_data: UnsafeMutableRawPointer(mutating: $0.baseAddress))
            return try body(&value)
        }
    }
}

extension MDB_val {
    fileprivate var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: mv_data, count: mv_size) }
}
