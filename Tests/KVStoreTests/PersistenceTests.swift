import Foundation
import Testing

@testable import KVStore

@Suite struct PersistenceTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/kv/core/core-0" }

    @Test func aSessionReadBackHasTheSameBits() throws {
        let store = try KVStore(configuration(path))
        let entries = (0..<200).map { $0 % 4 + 1 }
        try store.write(3, entries)
        store.settle()
        store.release(session: 3)
        #expect(store.length(session: 3) == nil)
        #expect(try store.resume(3, at: 200) == .ready)
        #expect(store.shows(3, entries))
        store.close()
        let second = try KVStore(configuration(path))
        defer { second.close() }
        #expect(try second.resume(3, at: 150) == .ready)
        #expect(second.shows(3, Array(entries.prefix(150))))
    }

    /// Every awkward float survives f32; the short types keep their own precision.
    @Test(arguments: StoredType.allCases)
    func floatsKeepThePrecisionOfTheStoredType(type: StoredType) throws {
        var configuration = configuration(path)
        configuration.storedType = type
        let store = try KVStore(configuration)
        defer { store.close() }
        #expect(try store.resume(1, at: 0) == .ready)
        #expect(store.extend(session: 1, by: 1))
        let row = store.appendEntry(session: 1, position: 0)
        let written: [Float] = [0, -0.0, 1, -1.5, 3.14159, 1e-3, 65000, -2e-5, .infinity, -.infinity]
        for (index, float) in written.enumerated() { store.set(row, index, float) }
        store.commit(session: 1, positions: 0..<1) { _ in }
        store.settle()
        store.release(session: 1)
        #expect(try store.resume(1, at: 1) == .ready)
        let tolerance: Float = type == .f32 ? 0 : type == .f16 ? 1 / 2048 : 1 / 256
        for (found, float) in zip(store.floats(store.visible(1, count: 1, deepest: 0)[0]), written) {
            let subnormal: Float = type == .f16 ? 6e-8 : 0
            #expect(found == float || abs(found - float) <= max(abs(float) * tolerance, subnormal))
            #expect(found.sign == float.sign)
        }
    }

    @Test func aSessionThatIsNotKeptLeavesNoRecord() throws {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 1], persist: false)
        store.close()
        #expect(try storedKeys(path).isEmpty)
    }

    @Test func truncationRemovesTheLaterRecordsWithTheNextCommit() throws {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 2, 3, 4, 1, 2])
        try store.write(2, [1])
        try store.write(1, at: 2, [2], writing: 1)
        store.close()
        #expect(try storedKeys(path) == [[1, 0, 0], [1, 1, 1], [1, 2, 1], [2, 0, 0]])
    }

    @Test func aPositionWrittenAgainHasOneRecord() throws {
        let store = try KVStore(configuration(path))
        for count in [4, 1, 3] { try store.write(1, [count], writing: count) }
        store.close()
        #expect(try storedKeys(path) == [[1, 0, 2]])
    }

    @Test func forgottenPositionsAreNotReadBack() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        try store.write(1, [1, 1, 1, 1])
        #expect(try store.resume(1, at: 2) == .ready)
        #expect(try store.resume(1, at: 4) == .needContext(from: 2))
    }

    @Test func positionsThatWereNeverStoredNeedContext() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        #expect(try store.resume(9, at: 3) == .needContext(from: 0))
        try store.write(9, [1, 1])
        store.settle()
        store.release(session: 9)
        #expect(try store.resume(9, at: 3) == .needContext(from: 2))
        #expect(store.shows(9, [1, 1]))
    }

    /// What kill -9 leaves is what the file held at that moment: a copy of it, with no goodbye.
    @Test func everythingAcknowledgedOutlivesAKill() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        let done = Completions()
        try store.write(1, [4, 3, 2, 1]) { done.note(1, $0) }
        store.settle()
        #expect(done.errors == [nil])
        let copy = "\(folder.path)/copy"
        try FileManager.default.copyItem(atPath: path, toPath: copy)
        let restarted = try KVStore(configuration(copy))
        defer { restarted.close() }
        #expect(try restarted.resume(1, at: 4) == .ready)
        #expect(restarted.shows(1, [4, 3, 2, 1]))
    }

    @Test(arguments: [Durability.process, .power])
    func completionsRunInTheSequenceOfTheCommits(durability: Durability) throws {
        var configuration = configuration(path)
        configuration.durability = durability
        let store = try KVStore(configuration)
        let done = Completions()
        for session in UInt64(0)..<100 {
            try store.write(session, [4, 4]) { done.note(Int(session), $0) }
        }
        store.close()
        #expect(done.labels == Array(0..<100))
        #expect(done.errors.allSatisfy { $0 == nil })
        #expect(try storedKeys(path).count == 200)
    }

    @Test func commitsOfOneStepShareATransaction() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        for session in UInt64(0)..<20 {
            #expect(try store.resume(session, at: 0) == .ready)
            #expect(store.extend(session: session, by: 1))
        }
        for session in UInt64(0)..<20 {
            store.fill(session, 0, 0)
            store.commit(session: session, positions: 0..<1) { _ in }
        }
        store.settle()
        #expect(store.statistics().commits == 1)
        #expect(store.statistics().records == 20)
    }

    @Test func closingCommitsWhatWaits() throws {
        let store = try KVStore(configuration(path))
        #expect(try store.resume(1, at: 0) == .ready)
        #expect(store.extend(session: 1, by: 1))
        store.fill(1, 0, 0)
        store.commit(session: 1, positions: 0..<1) { _ in }
        store.close()
        #expect(try storedKeys(path) == [[1, 0, 0]])
    }

    @Test func aDroppedSessionIsGoneFromBothTiers() throws {
        let store = try KVStore(configuration(path, rows: 8192))
        let done = Completions()
        try store.write(1, [Int](repeating: 1, count: 900))
        try store.write(1, at: 900, [Int](repeating: 1, count: 100))
        try store.write(2, [2])
        store.drop(session: 1) { done.note(1, $0) }
        #expect(try store.resume(1, at: 5) == .needContext(from: 0))
        store.close()
        #expect(done.errors == [nil])
        #expect(try storedKeys(path) == [[2, 0, 1]])
        #expect(try KVInspector(path: path).sessions().map(\.id) == [2])
    }
}
