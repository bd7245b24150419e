import TestKit
import Testing

@testable import KVStore

@Suite struct ResidentTests {
    private let folder = TemporaryFolder()

    @Test func aLookupGivesTheDeepestEntryNotDeeperThanAsked() throws {
        let store = try KVStore(configuration(nil))
        let entries = [1, 4, 2, 3, 1]
        try store.write(7, entries)
        #expect(store.shows(7, entries))
        #expect(store.length(session: 7) == 5)
        #expect(store.length(session: 8) == nil)
    }

    @Test func anOpenPositionIsSeenThroughTheEntriesItHasSoFar() throws {
        let store = try KVStore(configuration(nil))
        #expect(try store.prepare(session: 1, position: 0, persist: false, info: info()) == .ready)
        #expect(store.extend(session: 1, by: 2))
        for entry in 0..<3 {
            store.fill(1, 0, entry)
            if entry == 0 { store.fill(1, 1, 0) }
            #expect(store.shows(1, [entry + 1, 1]))
        }
    }

    /// Turns on many sessions in memory for a few of them, against what was written.
    @Test(arguments: [StoredType.f32], [UInt64(1), 2, 3])
    func randomTurnsEqualANaiveModel(type: StoredType, seed: UInt64) throws {
        var configuration = configuration("\(folder.path)/core-0", rows: 150)
        configuration.storedType = type
        let store = try KVStore(configuration)
        defer { store.close() }
        var random = SplitMix(state: seed)
        var entries: [UInt64: [Int]] = [:]
        var writings: [UInt64: [Int]] = [:]
        for turn in 0..<1500 {
            let session = UInt64.random(in: 1...12, using: &random)
            let position = Int.random(in: 0...(entries[session] ?? []).count, using: &random)
            let start = position > 24 ? 0 : position
            let added = (0..<Int.random(in: 1...5, using: &random)).map { _ in Int.random(in: 1...4, using: &random) }
            try store.write(session, at: start, added, writing: turn)
            entries[session] = (entries[session] ?? []).prefix(start) + added
            writings[session] = (writings[session] ?? []).prefix(start) + added.map { _ in turn }
            #expect(store.shows(session, entries[session]!, writings: writings[session]!))
            if turn % 50 == 0 { store.release(session: session) }
        }
        #expect(store.statistics().evictions > 100)
        #expect(store.statistics().reloads > 100)
    }

    @Test func theLeastRecentlyUsedSessionMakesRoom() throws {
        let store = try KVStore(configuration(nil, rows: 12))
        for session in UInt64(1)...3 { try store.write(session, [4], persist: false) }
        _ = try store.prepare(session: 1, position: 1, persist: false, info: info())
        try store.write(4, [4], persist: false)
        #expect(store.length(session: 2) == nil)
        #expect(store.length(session: 1) == 1)
        #expect(store.statistics().evictions == 1)
        #expect(try store.prepare(session: 2, position: 1, persist: false, info: info()) == .needContext(from: 0))
    }

    @Test func sessionsAtWorkAreNotDropped() throws {
        let store = try KVStore(configuration(nil, rows: 8))
        _ = try store.prepare(session: 1, position: 0, persist: false, info: info())
        #expect(store.extend(session: 1, by: 2))
        _ = try store.prepare(session: 2, position: 0, persist: false, info: info())
        #expect(!store.extend(session: 2, by: 1))
        store.abandon(session: 1, from: 0)
        #expect(store.extend(session: 2, by: 1))
    }

    @Test func entriesNotTakenAreGivenBackAtTheCommit() throws {
        let store = try KVStore(configuration(nil, rows: 8))
        try store.write(1, [1, 1], persist: false)
        #expect(store.statistics().residentBytes == 2 * rowBytes)
        _ = try store.prepare(session: 1, position: 2, persist: false, info: info())
        #expect(store.extend(session: 1, by: 1), "6 rows are free, one position takes at most 4")
    }

    @Test func nothingLeaksOverManySessions() throws {
        let store = try KVStore(configuration(nil, rows: 64))
        for session in UInt64(0)..<500 {
            try store.write(session, [4, 2, 1], persist: false)
            store.release(session: session)
        }
        #expect(store.statistics().residentBytes == 0)
        #expect(store.statistics().residentSessions == 0)
    }

    @Test func chunksOfASessionMayOverlapAndEndOutOfOrder() throws {
        let store = try KVStore(configuration("\(folder.path)/core-0"))
        defer { store.close() }
        for (start, count) in [(0, 3), (3, 2)] {
            #expect(try store.resume(5, at: start) == .ready)
            #expect(store.extend(session: 5, by: count))
        }
        for position in 0..<5 { store.fill(5, position, 0) }
        let done = Completions()
        store.commit(session: 5, positions: 3..<5) { done.note(2, $0) }
        store.fill(5, 1, 1)
        store.commit(session: 5, positions: 0..<3) { done.note(1, $0) }
        store.settle()
        #expect(done.labels == [2, 1])
        store.release(session: 5)
        #expect(try store.resume(5, at: 5) == .ready)
        #expect(store.shows(5, [1, 2, 1, 1, 1]))
    }

    @Test func aMemoryOnlyStoreCompletesAtOnce() throws {
        let store = try KVStore(configuration(nil))
        let done = Completions()
        try store.write(1, [1]) { done.note(1, $0) }
        #expect(done.errors == [nil])
        #expect(!store.isCommitting)
    }
}
