import Foundation
import Testing

@testable import KVStore

/// The map, the disk and the budgets running out.
@Suite struct RoomTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/core-0" }

    @Test func aTinyMapGrows() throws {
        var configuration = configuration(path, rows: 16384)
        configuration.mapBytes = 128 << 10
        let store = try KVStore(configuration)
        let done = Completions()
        for session in UInt64(0)..<40 {
            try store.write(session, [Int](repeating: 4, count: 50)) { done.note(Int(session), $0) }
        }
        store.close()
        #expect(done.labels == Array(0..<40))
        #expect(done.errors.allSatisfy { $0 == nil })
        #expect(try KVInspector(path: path).verify().records == 2000)
    }

    @Test func aSessionLargerThanTheBudgetIsRefusedAndTheNextOneServed() throws {
        let store = try KVStore(configuration(path, rows: 16))
        defer { store.close() }
        #expect(try store.resume(1, at: 0) == .ready)
        #expect(!store.extend(session: 1, by: 5))
        try store.write(2, [4, 4])
        #expect(store.shows(2, [4, 4]))
    }

    @Test func aSessionThatDoesNotFitNowIsReadBackLater() throws {
        let store = try KVStore(configuration(path, rows: 16))
        defer { store.close() }
        try store.write(1, [4, 4])
        store.settle()
        #expect(try store.resume(2, at: 0) == .ready)
        #expect(store.extend(session: 2, by: 4))
        #expect(throws: KVStoreError.self) { try store.resume(1, at: 2) }
        store.abandon(session: 2, from: 0)
        #expect(try store.resume(1, at: 2) == .ready)
        #expect(store.shows(1, [4, 4]))
    }

    /// A file system of one MiB; needs root.
    @Test(.enabled(if: geteuid() == 0)) func aFullDiskFailsTheCommitAndWorksAgainOnceThereIsRoom() throws {
        try withSmallDisk("1m") { disk in
            let store = try KVStore(configuration("\(disk)/core-0", rows: 16384))
            let done = Completions()
            try store.write(1, [4, 4]) { done.note(1, $0) }
            store.settle()
            try Data(count: 512 << 10).write(to: URL(fileURLWithPath: "\(disk)/ballast"))
            try store.write(2, [Int](repeating: 4, count: 1500)) { done.note(2, $0) }
            store.settle()
            #expect(done.errors.map { $0 == nil } == [true, false])
            // LMDB answers EIO, not ENOSPC, when a write is cut short.
            #expect(done.errors[1] == .full)
            #expect(try store.resume(2, at: 1500) == .needContext(from: 0))
            store.release(session: 1)
            #expect(try store.resume(1, at: 2) == .ready)
            #expect(store.shows(1, [4, 4]))
            try FileManager.default.removeItem(atPath: "\(disk)/ballast")
            try store.write(3, [Int](repeating: 1, count: 100)) { done.note(3, $0) }
            store.close()
            #expect(done.errors.map { $0 == nil } == [true, false, true])
        }
    }

    private func unnamed(_ keepBytes: Int, _ keepAgeMS: UInt64, now: UInt64) -> KVStoreConfiguration {
        var configuration = configuration(path)
        configuration.keepBytes = keepBytes
        configuration.keepAgeMS = keepAgeMS
        configuration.clock = { now }
        return configuration
    }

    private func lived() throws {
        for (session, name) in [(1, ""), (2, "kept"), (3, ""), (4, "")] {
            let store = try KVStore(unnamed(.max, .max, now: UInt64(session) * 1000))
            try store.write(UInt64(session), [4, 4], name: name)
            store.close()
        }
    }

    private func sessionsAfter(_ configuration: KVStoreConfiguration, resident: UInt64? = nil) throws -> [UInt64] {
        let store = try KVStore(configuration)
        if let resident { _ = try store.resume(resident, at: 2) }
        store.housekeeping()
        store.close()
        return try KVInspector(path: path).sessions().map(\.id)
    }

    @Test func unnamedSessionsAreCollectedByAge() throws {
        try lived()
        #expect(try sessionsAfter(unnamed(.max, 1500, now: 5000)) == [2, 4])
        #expect(try KVInspector(path: path).verify().records == 4)
    }

    @Test func unnamedSessionsAreCollectedByBytesTheOldestFirst() throws {
        try lived()
        let each = 2 * (16 + 4 * 24 * 4)
        #expect(try sessionsAfter(unnamed(2 * each, .max, now: 5000)) == [2, 3, 4])
        #expect(try sessionsAfter(unnamed(each, .max, now: 5000)) == [2, 4])
    }

    @Test func aStoreHasGrownOnceHalfItsBudgetWasWritten() throws {
        let store = try KVStore(unnamed(2 * 2 * (16 + 4 * 24 * 4), .max, now: 5000))
        try store.write(1, [4, 4])
        store.flush()
        #expect(!store.hasGrown)
        try store.write(2, [4, 4])
        store.release(session: 2)
        #expect(try store.resume(2, at: 2) == .ready)  // once its write has ended
        #expect(store.hasGrown)
        store.housekeeping()
        #expect(!store.hasGrown)
        store.close()
    }

    @Test func residentSessionsAreNotCollected() throws {
        try lived()
        #expect(try sessionsAfter(unnamed(0, .max, now: 5000), resident: 1) == [1, 2])
    }

    @Test func theToolCollectsAtRest() throws {
        try lived()
        #expect(try KVInspector.collect(path: path, keepBytes: -1, ageSeconds: 1e9) == 3)
        #expect(try KVInspector(path: path).sessions().map(\.name) == ["kept"])
        #expect(try KVInspector(path: path).verify().problems.isEmpty)
    }
}
