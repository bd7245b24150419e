import CLMDB
import Foundation

/// A store operation that failed: what was attempted, on which path, the C error, and what to do.
public struct KVStoreError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// An LMDB or system call failed.
        case system
        /// No room: the disk, the map or the resident budget is full.
        case full
        /// Another process owns it.
        case owned
        /// Written by another model or another version of the store.
        case foreign
        /// A record does not hold what its header and checksum promise.
        case damaged
        /// Nothing of that name.
        case notFound
    }

    public let code: Code
    public let attempted: String
    public let path: String
    /// LMDB result or errno; 0 when neither was involved.
    public let result: Int32
    public let advice: String

    public init(_ code: Code, _ attempted: String, path: String, result: Int32 = 0, advice: String = "") {
        self.code = code
        self.attempted = attempted
        self.path = path
        self.result = result
        self.advice = advice
    }

    /// An LMDB result other than MDB_SUCCESS.
    init(lmdb result: Int32, _ attempted: String, path: String) {
        // LMDB reports a write that a full disk cut short as EIO.
        let full = [ENOSPC, EDQUOT, EIO, MDB_MAP_FULL]
        // An empty data.mdb is EBADF, a page with an absurd number EFBIG, a tree that bites its tail MDB_CURSOR_FULL. A
        // transaction that is bad at its first call could not find its databases.
        let damaged = [
            MDB_CORRUPTED, MDB_INVALID, MDB_VERSION_MISMATCH, MDB_PAGE_NOTFOUND, MDB_PAGE_FULL, MDB_CURSOR_FULL,
            MDB_BAD_TXN, EBADF, EFBIG,
        ]
        let (code, advice): (Code, String) =
            if full.contains(result) {
                (.full, "free some space on its disk; 'anira kv gc', the suite stopped, then makes room in its file")
            } else if damaged.contains(result) {
                (.damaged, "data.mdb is damaged: restore a copy or move it away")
            } else if result == EACCES {
                (.system, "its data.mdb and lock.mdb must be writable, by readers too: run this as their owner")
            } else {
                (.system, "if it comes again, data.mdb may be damaged: restore a copy or move it away")
            }
        self.init(code, attempted, path: path, result: result, advice: advice)
    }

    /// errno behind an error of Foundation's; 0: it does not say.
    public static func errorNumber(of error: any Error) -> Int32 {
        let underlying = (error as NSError).userInfo[NSUnderlyingErrorKey] as? any Error
        let cause = (underlying ?? error) as NSError
        return cause.domain == NSPOSIXErrorDomain ? Int32(cause.code) : 0
    }

    public var description: String {
        let reason = result == 0 ? "" : ": \(String(cString: mdb_strerror(result)))"
        return "cannot \(attempted) \(path)\(reason)" + (advice.isEmpty ? "" : "; \(advice)")
    }
}
