import Foundation
import KVStore
import Testing

@Suite("Commits: in groups, acknowledged afterwards")
struct StoreCommitTests {
    @Test("Many sessions are one transaction", arguments: [Durability.process, .power])
    func group(_ durability: Durability) throws {
        let bench = try StoreBench { $0.durability = durability }
        for session in 1...50 as ClosedRange<UInt64> { #expect(try bench.prepare(session, 0) == .ready) }
        for session in 1...50 as ClosedRange<UInt64> { try bench.write(session, at: 0, [1], flush: false) }
        #expect(bench.acknowledged.sessions.isEmpty)
        bench.settle()
        #expect(bench.acknowledged.sessions == Array(1...50))
        let figures = bench.store.statistics()
        #expect((figures.commits, figures.records, figures.fallbacks) == (1, 50, 0))
    }

    @Test("A small group is committed by the caller: acknowledged when flush returns")
    func inline() throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [5, 5])
        #expect(bench.acknowledged.sessions == [1])
        #expect(!bench.store.isCommitting)
    }

    @Test("A large group goes to the writer thread and is acknowledged from there, in order")
    func thread() throws {
        let bench = try StoreBench {
            $0.shape = CacheShape(layers: 4, width: 256, maxEntries: 4)
            $0.rows = 1000
        }
        for session in 1...4 as ClosedRange<UInt64> {
            try bench.write(session, at: 0, [Int](repeating: 4, count: 20))
        }
        bench.settle()
        #expect(bench.acknowledged.sessions == [1, 2, 3, 4])
        try bench.reopen()
        #expect(try bench.prepare(3, 20) == .ready)
        #expect(bench.equalsNaive(3))
    }

    /// The order of the promise: when a completion runs, another process sees the records.
    @Test("A completion runs after the commit that holds its records", arguments: [Durability.process, .power])
    func afterwards(_ durability: Durability) throws {
        final class Seen: @unchecked Sendable { var text = "" }  // written once, before `settle` returns
        let (bench, seen) = (try StoreBench { $0.durability = durability }, Seen())
        #expect(try bench.prepare(7, 0) == .ready)
        #expect(bench.store.extend(session: 7, by: 1))
        bench.naive[7] = [[]]
        bench.add(7, 0)
        bench.store.commit(session: 7, positions: 0..<1) { [path = bench.path] _ in
            let (process, output) = (Process(), Pipe())
            process.executableURL = URL(fileURLWithPath: "/usr/bin/mdb_stat")
            process.arguments = ["-s", "kv", path]
            process.standardOutput = output
            try? process.run()
            seen.text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
        }
        bench.settle()
        #expect(seen.text.contains("Entries: 1\n"))
    }

    @Test("A map far too small grows while sessions are written and read", arguments: [Durability.process, .power])
    func growth(_ durability: Durability) throws {
        let bench = try StoreBench {
            $0.shape = CacheShape(layers: 2, width: 32, maxEntries: 5)
            $0.mapBytes = 1 << 16
            $0.durability = durability
            $0.rows = 600
        }
        for session in 1...40 as ClosedRange<UInt64> {
            try bench.write(session, at: 0, [5, 3, 5, 1, 5, 5, 5, 5, 5, 5])
            if session > 2 { #expect(try bench.prepare(session - 2, 10) == .ready) }
        }
        bench.settle()
        #expect(bench.acknowledged.sessions == Array(1...40) && bench.acknowledged.failures == 0)
        let used = bench.store.statistics().mapUsedRatio
        #expect(used > 0 && used <= 1)
        for session in bench.naive.keys.sorted() {
            #expect(try bench.prepare(session, 10) == .ready)
            #expect(bench.equalsNaive(session))
        }
        try bench.reopen()
        #expect(try bench.prepare(1, 10) == .ready)
        #expect(bench.equalsNaive(1))
    }

    @Test("A session that is not kept is acknowledged at once and leaves no record")
    func notKept() throws {
        let bench = try StoreBench()
        let info = SessionInfo(name: "", request: "score")
        #expect(try bench.store.prepare(session: 1, position: 0, persist: false, info: info) == .ready)
        #expect(bench.store.extend(session: 1, by: 1))
        bench.naive[1] = [[]]
        bench.add(1, 0)
        bench.commit(1, 0..<1)
        #expect(bench.acknowledged.sessions == [1])
        bench.settle()
        #expect(try bench.keys("kv").isEmpty && bench.keys("sessions").isEmpty)
    }

    @Test("Named sessions and the newest are kept, the others go by bytes and by age")
    func collection() throws {
        let bench = try StoreBench { $0.stamp = 1000 }
        for session in 1...5 as ClosedRange<UInt64> {
            try bench.write(session, at: 0, [1, 1], name: session == 2 ? "tea" : "")
            try bench.reopen { $0.stamp += 1000 }
        }
        let each = 2 * (16 + 12 * 4)
        try bench.reopen { $0.keepBytes = 2 * each }
        bench.store.housekeeping()
        bench.settle()
        #expect(try bench.keys("sessions").map { Int($0, radix: 16) } == [2, 4, 5])
        try bench.reopen {
            $0.keepBytes = .max
            $0.keepAgeMS = 1500
        }
        bench.store.housekeeping()
        bench.settle()
        #expect(try bench.keys("sessions").map { Int($0, radix: 16) } == [2, 5])
        #expect(try bench.keys("kv").count == 4)
        try bench.reopen { $0.keepAgeMS = 0 }
        #expect(try bench.prepare(5, 2) == .ready)
        bench.store.housekeeping()
        bench.settle()
        #expect(try bench.keys("sessions").map { Int($0, radix: 16) } == [2, 5], "a resident session is spared")
        #expect(bench.equalsNaive(5))
    }
}
