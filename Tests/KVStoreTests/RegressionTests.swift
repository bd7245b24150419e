import Foundation
import Synchronization
import Testing

@testable import KVStore

/// Faults that were found in the store, each with what broke.
@Suite struct RegressionTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/core-0" }

    /// `Environment.init` closed the handle and threw once every property was set; `deinit` then closed it again, and
    /// the process ended with SIGABRT.
    @Test func anEnvironmentWithoutOurDatabasesIsRefusedWithoutACrash() async {
        await #expect(processExitsWith: .success) { [path = folder.path as String] in
            let other = try Environment(path: path, access: .owner(.process), names: ["theirs"])
            other.close()
            for _ in 0..<20 {
                #expect(throws: KVStoreError.self) {
                    try Environment(path: path, access: .reader, names: ["kv"])
                }
            }
        }
    }

    /// A data.mdb cut short ended the process with SIGBUS at the first read past its end.
    @Test func aFileCutShortIsReportedWithoutACrash() async {
        await #expect(processExitsWith: .success) { [path = folder.path as String] in
            let store = try KVStore(configuration(path, rows: 8192))
            try store.write(1, [Int](repeating: 4, count: 1000))
            store.close()
            truncate("\(path)/data.mdb", 64 << 10)
            #expect(throws: KVStoreError.self) { _ = try KVInspector(path: path).verify() }
            #expect(throws: KVStoreError.self) { try KVStore(configuration(path)).close() }
        }
    }

    /// The length check lets 16 pages be missing: cut by fewer, the file is still a SIGBUS, but not without a word.
    @Test func aFileCutShortByAFewPagesIsReportedAsTheLastWord() async throws {
        let result = await #expect(
            processExitsWith: .exitCode(1), observing: [\.standardErrorContent]
        ) { [path = folder.path as String] in
            let store = try KVStore(configuration(path, rows: 8192))
            try store.write(1, [Int](repeating: 4, count: 1000))
            store.close()
            let file = "\(path)/data.mdb"
            var status = stat()
            stat(file, &status)
            truncate(file, status.st_size - 12 * 4096)
            _ = try KVInspector(path: path).verify()
        }
        let said = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(said.contains("cannot read the store \(folder.path): data.mdb is damaged"))
    }

    /// LMDB divides by it: the process ended without a word, and was started again and again.
    @Test func aPageSizeOfNothingIsReportedAsTheLastWord() async throws {
        let result = await #expect(
            processExitsWith: .exitCode(1), observing: [\.standardErrorContent]
        ) { [path = folder.path as String] in
            try KVStore(configuration(path)).close()
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: "\(path)/data.mdb"))
            for page in [0, 4096] as [UInt64] {
                try file.seek(toOffset: page + 40)
                try file.write(contentsOf: Data(count: 4))
            }
            try KVStore(configuration(path)).close()
        }
        let said = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(said.contains("data.mdb is damaged"))
    }

    /// Words are for faults in the store only.
    @Test func otherFaultsEndTheProcessAsBefore() async {
        await #expect(processExitsWith: .signal(SIGSEGV)) { [path = folder.path as String] in
            try KVStore(configuration(path)).close()
            raise(SIGSEGV)
        }
    }

    /// Figures read through the map, so they hold the lock that growing it takes.
    @Test func figuresMayBeReadWhileTheMapGrows() async {
        await #expect(processExitsWith: .success) { [path = folder.path as String] in
            for round in 0..<10 {
                let environment = try Environment(
                    path: "\(path)/\(round)", access: .owner(.process), names: ["a"], mapBytes: 1 << 16)
                let done = Completions()
                let ended = DispatchSemaphore(value: 0)
                Thread {
                    while done.labels.isEmpty { _ = environment.mapUsedRatio }
                    ended.signal()
                }.start()
                for key in UInt8(0)..<64 {
                    try environment.write { try $0.put("a", [key], [UInt8](repeating: 1, count: 60_000)) }
                }
                done.note(1, nil)
                ended.wait()
                environment.close()
            }
        }
    }

    /// Another program's environment got our databases.
    @Test func anotherProgramsEnvironmentIsLeftAlone() throws {
        let other = try Environment(path: path, access: .owner(.process), names: ["theirs"])
        try other.write { try $0.put("theirs", [1], [1]) }
        other.close()
        let before = try Data(contentsOf: URL(fileURLWithPath: "\(path)/data.mdb"))
        #expect(throws: KVStoreError.self) { try KVStore(configuration(path)).close() }
        #expect(try Data(contentsOf: URL(fileURLWithPath: "\(path)/data.mdb")) == before)
    }

    /// What was void went with the resident session; its records stayed and were served.
    @Test func forgottenPositionsStayForgottenAfterARelease() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        try store.write(1, [1, 1, 1, 1])
        store.settle()
        #expect(try store.resume(1, at: 2) == .ready)
        store.release(session: 1)
        let residency = try store.resume(1, at: 4)
        #expect(residency != .ready)
    }

    /// `prepare` took `info` and `persist` only when the session became resident.
    @Test func theSessionRecordNamesTheRequestThatWroteLast() throws {
        let store = try KVStore(configuration(path))
        for (position, request) in ["first", "second"].enumerated() {
            _ = try store.prepare(session: 1, position: position, persist: true, info: info("tea", request: request))
            #expect(store.extend(session: 1, by: 1))
            store.fill(1, position, 0)
            store.commit(session: 1, positions: position..<(position + 1)) { _ in }
        }
        store.close()
        #expect(try KVInspector(path: path).sessions().first?.request == "second")
    }

    /// What a request that failed had left beyond its start was believed where a worker got the session's next request from a later
    /// chunk on, or after the session had gone on elsewhere.
    @Test("Another request believes no more than it is told", arguments: [true, false])
    func anotherRequestsRows(_ afterRestart: Bool) throws {
        func prepare(_ store: KVStore, _ position: Int, by number: UInt64, trusted: Int) throws -> Residency {
            try store.prepare(
                session: 1, position: position, persist: true,
                info: SessionInfo(name: "tea", request: "r", number: number), trusted: trusted)
        }
        var store = try KVStore(configuration(path))
        #expect(try prepare(store, 0, by: 7, trusted: 0) == .ready)
        #expect(store.extend(session: 1, by: 4))
        for position in 0..<4 { store.fill(1, position, 0) }
        store.commit(session: 1, positions: 0..<4) { _ in }
        store.settle()
        if afterRestart {
            store.close()
            store = try KVStore(configuration(path))
        }
        defer { store.close() }
        #expect(try prepare(store, 4, by: 7, trusted: 0) == .ready)
        #expect(try prepare(store, 4, by: 8, trusted: 2) == .needContext(from: 2))
        #expect(try prepare(store, 2, by: 8, trusted: 2) == .ready)
        #expect(store.shows(1, [1, 1]))
        #expect(try prepare(store, 2, by: 9, trusted: 0) == .needContext(from: 0))
    }

    /// An undecodable session record counted as length 1: positions from there on were not void, and a position got a
    /// second record, the older of which could be served.
    @Test func aDamagedSessionRecordDoesNotLeaveTwoRecordsOfAPosition() throws {
        let first = try KVStore(configuration(path))
        try first.write(1, [1, 1, 1, 1])
        first.close()
        try edit(path) { try $0.put("sessions", Key.session(1), [9, 9, 9]) }
        let second = try KVStore(configuration(path))
        try second.write(1, at: 2, [3], writing: 1)
        second.close()
        #expect(try storedKeys(path) == [[1, 0, 0], [1, 1, 0], [1, 2, 2]])
    }

    /// After a failed commit `prepare` dropped the session, also while another chunk of it was at work, whose next
    /// `appendEntry` trapped.
    @Test(.enabled(if: geteuid() == 0)) func aFailedCommitDoesNotTakeOpenPositionsAway() throws {
        try withSmallDisk("256k") { disk in
            let store = try KVStore(configuration("\(disk)/core-0", rows: 16384))
            defer { store.close() }
            #expect(try store.resume(1, at: 0) == .ready)
            #expect(store.extend(session: 1, by: 1000))
            for position in 0..<1000 { for entry in 0..<4 { store.fill(1, position, entry) } }
            #expect(try store.resume(1, at: 1000) == .ready)
            #expect(store.extend(session: 1, by: 2))
            store.commit(session: 1, positions: 0..<1000) { _ in }
            store.settle()
            #expect(try store.resume(1, at: 1002) == .ready)
            store.fill(1, 1000, 0)
            store.abandon(session: 1, from: 1000)
            #expect(try store.resume(1, at: 1000) == .needContext(from: 0))
        }
    }

    /// `verify` compared no session's length with its records.
    @Test func aMissingLastRecordIsReported() throws {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 1, 1])
        store.close()
        try edit(path) { try $0.delete("kv", Key.record(1, 2, deepest: 0)) }
        #expect(try KVInspector(path: path).verify().problems.map(\.position) == [2])
    }

    @Test func aDamagedSessionRecordIsReported() throws {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 1, 1])
        store.close()
        try edit(path) { try $0.put("sessions", Key.session(1), [9, 9, 9]) }
        #expect(try KVInspector(path: path).verify().problems.map(\.key) == [hex(Key.session(1))])
    }

    /// The collector spared only sessions in memory: with more at work than fit there, those that had left it for room were
    /// removed between two tokens and had to be replayed.
    @Test func aSessionThatMadeRoomIsNotCollectedUntilItIsReleased() throws {
        let now = Atomic<UInt64>(0)
        var configuration = configuration(path, rows: 16)
        configuration.keepBytes = 0
        configuration.clock = { now.load(ordering: .relaxed) }
        let store = try KVStore(configuration)
        func collect() {
            store.settle()
            store.housekeeping()
            store.settle()
        }
        for session in UInt64(1)...3 {
            try store.write(session, [4, 4])
            store.settle()
        }
        #expect(store.length(session: 1) == nil)
        collect()
        #expect(try store.resume(1, at: 2) == .ready)
        #expect(store.length(session: 2) == nil)
        store.release(session: 1)
        store.release(session: 2)
        collect()
        #expect(try store.resume(1, at: 2) == .needContext(from: 0))
        #expect(try store.resume(2, at: 2) == .needContext(from: 0))

        // Its release may be lost with a connection.
        try store.write(4, [4, 4])
        store.settle()
        try store.write(5, [4, 4])
        store.settle()
        #expect(store.length(session: 3) == nil)
        now.store(configuration.evictedAgeMS + 1, ordering: .relaxed)
        collect()
        store.close()
        #expect(try storedKeys(path).map { $0[0] } == [4, 4, 5, 5])
    }

    /// Sizes in session records, which have no checksum, were believed: less than nothing, and more than there can be, ended
    /// the process.
    @Test func whatASessionRecordSaysOfItsSizeDoesNotEndTheProcess() async {
        await #expect(processExitsWith: .success) { [path = folder.path as String] in
            let first = try KVStore(configuration(path))
            try first.write(1, [1, 1, 1, 1])
            first.close()
            try edit(path) { txn in
                try txn.put("sessions", Key.session(1), [9, 9, 9])
                for session in UInt64(2)...4 {
                    let record = StoredSession(info: info(), length: 1, created: 0, updated: 0, bytes: .max)
                    try record.encoded { _ = try txn.put("sessions", Key.session(session), $0) }
                }
            }
            let second = try KVStore(configuration(path))
            try second.write(1, at: 1, [1])
            try second.write(2, [1])
            second.settle()
            second.housekeeping()
            second.close()
            #expect(try KVInspector.collect(path: path, keepBytes: 1 << 20, ageSeconds: 1e9) >= 0)
        }
    }

    /// A drop whose commit failed was forgotten: the session's name was gone, its records stayed.
    @Test(.enabled(if: geteuid() == 0)) func aDropThatFailsIsTriedAgain() throws {
        try withSmallDisk("1m") { disk in
            let store = try KVStore(configuration("\(disk)/core-0"))
            try store.write(1, [4, 4], name: "tea")
            store.settle()
            let ballast = "\(disk)/ballast"
            let file = open(ballast, O_WRONLY | O_CREAT, 0o600)
            while write(file, [UInt8](repeating: 0, count: 4096), 4096) == 4096 {}
            close(file)
            let done = Completions()
            store.drop(session: 1) { done.note(1, $0) }
            store.settle()
            try #require(done.errors == [.full])
            store.housekeeping()
            store.settle()
            try FileManager.default.removeItem(atPath: ballast)
            store.housekeeping()
            store.close()
            #expect(try storedKeys("\(disk)/core-0").isEmpty)
        }
    }
}
