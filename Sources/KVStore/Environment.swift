import CLMDB
import Foundation
import Kernels
import Synchronization

/// What an acknowledgement survives.
public enum Durability: String, Sendable, Codable {
    /// kill -9 of the process (MDB_NOSYNC: the system writes in its own time).
    case process
    /// A power cut: every commit is synchronised.
    case power
}

/// What becomes of a `data.mdb` that is damaged in LMDB's own pages.
public enum Damage: Sendable {
    /// It stays: what it holds is nowhere else.
    case stays
    /// What it holds can be computed again: it becomes `data.mdb.damaged`, in place of an earlier one, and the process ends
    /// with `Environment.setAsideStatus`, so that the next start finds an empty store.
    case isSetAside
}

/// LMDB follows what a page says without a check: where data.mdb is damaged, the process dies by a signal. Within `during` it
/// says on standard error which store that was, and ends as `Damage` tells.
private final class LastWords: @unchecked Sendable {  // never changes
    private let words = UnsafeMutablePointer<anira_last_words>.allocate(capacity: 1)

    /// cause: what a fault in memory means.
    init(path: String, cause: String = "data.mdb is damaged", damage: Damage = .stays) {
        let (file, aside) = ("\(path)/data.mdb", "\(path)/data.mdb.damaged")
        let text = "Error: cannot read the store \(path): \(cause)"
        words.initialize(to: anira_last_words())
        words.pointee.text = UnsafePointer(strdup("\(text); restore a copy or move it away\n"))
        guard damage == .isSetAside else { return }
        words.pointee.file = UnsafePointer(strdup(file))
        words.pointee.aside = UnsafePointer(strdup(aside))
        words.pointee.lock = UnsafePointer(strdup("\(path)/lock.mdb"))
        words.pointee.aside_text = UnsafePointer(
            strdup("\(text) and is \(aside) now; at the next start what it held is computed again\n"))
    }

    deinit {
        let w = words.pointee
        for text in [w.text, w.file, w.aside, w.lock, w.aside_text] { free(UnsafeMutablePointer(mutating: text)) }
        words.deallocate()
    }

    func during<R>(_ body: () throws -> R) throws -> R {
        let earlier = anira_last_words(words)
        defer { _ = anira_last_words(earlier) }
        return try orLeave(body)
    }

    /// The same for what LMDB finds damaged by itself.
    func orLeave<R>(_ body: () throws -> R) throws -> R {
        do {
            return try body()
        } catch let error as KVStoreError where error.code == .damaged && words.pointee.aside != nil {
            anira_leave(words)
        }
    }
}

/// One LMDB environment. Rules carried over from lmdb.h: open a path once per process and never across fork; no
/// transaction outlives its closure; values read are valid only inside it; one writer at a time.
public final class Environment: @unchecked Sendable {  // LMDB is thread safe with NOTLS; growth holds the lock
    public enum Access: Sendable {
        /// Creates what is missing and writes; one process at a time.
        case owner(Durability)
        /// Reads beside a live owner, or at rest.
        case reader
    }

    /// Exit status of a process that has set a damaged file aside: to start it again helps.
    public static let setAsideStatus = Int32(ANIRA_SET_ASIDE_STATUS)

    public let path: String
    private let env: OpaquePointer
    private let lock: OwnerLock?
    private let words: LastWords
    private var isClosed = false
    private var databases: [String: MDB_dbi] = [:]
    /// Transactions hold it shared, growing the map exclusively: the map may only move while none is open.
    private let growth = UnsafeMutablePointer<pthread_rwlock_t>.allocate(capacity: 1)
    private static let open = Mutex<Set<String>>([])
    /// Bytes of a page of the file.
    public let pageBytes: Int

    /// path: folder of data.mdb. names: the named databases. mapBytes: address space reserved at first.
    public init(
        path: String, access: Access, names: [String], mapBytes: Int = 64 << 30, damage: Damage = .stays
    ) throws {
        self.path = path
        guard Self.open.withLock({ $0.insert(path).inserted }) else {
            throw KVStoreError(.owned, "open a second time in this process", path: path)
        }
        var succeeded = false
        defer { if !succeeded { Self.open.withLock { _ = $0.remove(path) } } }
        switch access {
        case .owner:
            try Self.makeFolder(path)
            lock = try OwnerLock(
                path: "\(path)/owner.lock", what: "the store \(path)", instead: "name or data folder")
        case .reader:
            lock = nil
            guard FileManager.default.fileExists(atPath: "\(path)/data.mdb") else {
                throw KVStoreError(.notFound, "open", path: path, advice: "there is no data.mdb in it")
            }
        }
        let words = LastWords(path: path, damage: damage)
        // No page is followed here, but lock.mdb is written through a map: a full disk is a fault too.
        let opening = LastWords(path: path, cause: "no room on its disk for lock.mdb, or data.mdb is damaged")
        env = try words.orLeave { try opening.during { try Self.openEnvironment(path, access, mapBytes: mapBytes) } }
        self.words = words
        var pages = MDB_stat()
        mdb_env_stat(env, &pages)
        pageBytes = Int(pages.ms_psize)
        succeeded = true  // from here on deinit undoes everything
        pthread_rwlock_init(growth, nil)
        try words.during {
            try checkFile()
            try openDatabases(names, access)
        }
    }

    /// A file cut short would be a bus error at the first read past its end. Pages that a transaction took and gave
    /// back at once are never written, so a few missing at the end are no damage.
    private func checkFile() throws {
        var status = stat()
        guard stat("\(path)/data.mdb", &status) == 0 else {
            throw KVStoreError(.system, "look at the file of", path: path, result: errno)
        }
        var info = MDB_envinfo()
        mdb_env_info(env, &info)
        guard pageBytes > 0, (0..<Int.max).contains(info.me_last_pgno) else {
            throw KVStoreError(
                .damaged, "use", path: path, advice: "the head of data.mdb is damaged: restore a copy or remove it")
        }
        let (held, used) = (Int(status.st_size) / pageBytes, info.me_last_pgno + 1)
        guard held + 16 >= used else {
            throw KVStoreError(
                .damaged, "use", path: path,
                advice: "data.mdb was cut short, \(held) pages of \(used): restore a copy or remove it")
        }
    }

    /// One that only its owner may enter, where it is missing.
    public static func makeFolder(_ path: String, advice: String = "choose another --data folder") throws {
        do {
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw KVStoreError(
                .system, "make the folder", path: path, result: KVStoreError.errorNumber(of: error), advice: advice)
        }
    }

    private static func openEnvironment(_ path: String, _ access: Access, mapBytes: Int) throws -> OpaquePointer {
        var handle: OpaquePointer?
        mdb_env_create(&handle)
        guard let handle else { throw KVStoreError(.system, "make an environment for", path: path, result: ENOMEM) }
        mdb_env_set_maxreaders(handle, 512)
        mdb_env_set_maxdbs(handle, 8)
        var flags = UInt32(MDB_NOTLS)
        switch access {
        case .owner(let durability):
            mdb_env_set_mapsize(handle, mapBytes)
            if durability == .process { flags |= UInt32(MDB_NOSYNC) }
        case .reader: flags |= UInt32(MDB_RDONLY)
        }
        let result = mdb_env_open(handle, path, flags, 0o600)
        guard result == MDB_SUCCESS else {
            mdb_env_close(handle)
            throw KVStoreError(lmdb: result, "open the store", path: path)
        }
        return handle
    }

    private func openDatabases(_ names: [String], _ access: Access) throws {
        let owns = if case .owner = access { true } else { false }
        var txn: OpaquePointer?
        try check(mdb_txn_begin(env, nil, owns ? 0 : UInt32(MDB_RDONLY), &txn), "begin a transaction on")
        if owns { try refuseStranger(txn, names) }
        for name in names {
            var database: MDB_dbi = 0
            let result = mdb_dbi_open(txn, name, owns ? UInt32(MDB_CREATE) : 0, &database)
            guard result == MDB_SUCCESS else {
                mdb_txn_abort(txn)
                throw KVStoreError(lmdb: result, "open database '\(name)' of", path: path)
            }
            databases[name] = database
        }
        try check(mdb_txn_commit(txn), "open the databases of")
        if owns {
            var dead: Int32 = 0
            mdb_reader_check(env, &dead)
        }
    }

    /// An environment that holds something, but none of our databases, is another program's.
    private func refuseStranger(_ txn: OpaquePointer?, _ names: [String]) throws {
        do {
            var main: MDB_dbi = 0
            var stat = MDB_stat()
            try check(mdb_dbi_open(txn, nil, 0, &main), "look into")
            try check(mdb_stat(txn, main, &stat), "look into")
            guard stat.ms_entries > 0 else { return }
            let isOurs = try names.contains { name in
                var ours: MDB_dbi = 0
                let result = mdb_dbi_open(txn, name, 0, &ours)
                if result != MDB_NOTFOUND { try check(result, "open database '\(name)' of") }
                return result == MDB_SUCCESS
            }
            guard isOurs else {
                throw KVStoreError(
                    .foreign, "use", path: path,
                    advice: "it is another program's, or damaged: choose another --data folder, or move it away")
            }
        } catch {
            mdb_txn_abort(txn)
            throw error
        }
    }

    deinit {
        close()
        pthread_rwlock_destroy(growth)
        growth.deallocate()
    }

    /// Closes the environment and gives its path up; no transaction may be open or begun afterwards.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        mdb_env_close(env)
        lock?.release()
        Self.open.withLock { _ = $0.remove(path) }
    }

    func check(_ result: Int32, _ attempted: String) throws {
        guard result == MDB_SUCCESS else { throw KVStoreError(lmdb: result, attempted, path: path) }
    }

    /// A consistent view for the length of `body`. Keep it short: pages it may read are not reused meanwhile.
    public func read<R>(_ body: (borrowing Transaction) throws -> R) throws -> R {
        pthread_rwlock_rdlock(growth)
        defer { pthread_rwlock_unlock(growth) }
        var txn: OpaquePointer?
        var result = mdb_txn_begin(env, nil, UInt32(MDB_RDONLY), &txn)
        if result == MDB_MAP_RESIZED {  // the owner has grown the map: adopt its size, with no transaction open here
            pthread_rwlock_unlock(growth)
            pthread_rwlock_wrlock(growth)
            mdb_env_set_mapsize(env, 0)
            pthread_rwlock_unlock(growth)
            pthread_rwlock_rdlock(growth)
            result = mdb_txn_begin(env, nil, UInt32(MDB_RDONLY), &txn)
        }
        try check(result, "begin reading")
        defer { mdb_txn_abort(txn) }
        return try words.during { try body(Transaction(txn: txn!, databases: databases, path: path)) }
    }

    /// Commits when `body` returns, aborts when it throws. When the map is full it grows and `body` runs again, so
    /// that `body` must have no other effects.
    @discardableResult
    public func write<R>(_ body: (borrowing Transaction) throws -> R) throws -> R {
        while true {
            do {
                return try attempt(body)
            } catch let error as KVStoreError where error.result == MDB_MAP_FULL {
                try grow()
            }
        }
    }

    private func attempt<R>(_ body: (borrowing Transaction) throws -> R) throws -> R {
        pthread_rwlock_rdlock(growth)
        defer { pthread_rwlock_unlock(growth) }
        var txn: OpaquePointer?
        try check(mdb_txn_begin(env, nil, 0, &txn), "begin writing")
        let value: R
        do {
            value = try words.during { try body(Transaction(txn: txn!, databases: databases, path: path)) }
        } catch {
            mdb_txn_abort(txn)
            throw error
        }
        try words.during { try check(mdb_txn_commit(txn), "commit to") }
        return value
    }

    private func grow() throws {
        pthread_rwlock_wrlock(growth)
        defer { pthread_rwlock_unlock(growth) }
        var info = MDB_envinfo()
        mdb_env_info(env, &info)
        try check(mdb_env_set_mapsize(env, info.me_mapsize * 2), "grow the map of")
    }

    /// Frees the reader slots of processes that died.
    public func checkReaders() {
        var dead: Int32 = 0
        mdb_reader_check(env, &dead)
    }

    /// Share of the map in use, 0…1.
    public var mapUsedRatio: Double {
        pthread_rwlock_rdlock(growth)
        defer { pthread_rwlock_unlock(growth) }
        var info = MDB_envinfo()
        mdb_env_info(env, &info)
        return Double(info.me_last_pgno + 1) * Double(pageBytes) / Double(max(1, info.me_mapsize))
    }

    /// Bytes of the file in use.
    public var usedBytes: Int {
        pthread_rwlock_rdlock(growth)
        defer { pthread_rwlock_unlock(growth) }
        var info = MDB_envinfo()
        mdb_env_info(env, &info)
        return (info.me_last_pgno + 1) * pageBytes
    }
}
