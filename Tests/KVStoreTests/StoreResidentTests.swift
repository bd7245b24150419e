import Foundation
import KVStore
import Testing

@Suite("The resident tier stays in its budget")
struct StoreResidentTests {
    private func rowBytes(_ bench: StoreBench) -> Int { bench.store.stride }

    @Test("extend is refused when nothing may be dropped, and works once something may")
    func refusal() throws {
        let bench = try StoreBench { $0.rows = 10 }
        #expect(try bench.prepare(1, 0) == .ready)
        #expect(bench.store.extend(session: 1, by: 2))
        #expect(try bench.prepare(2, 0) == .ready)
        #expect(!bench.store.extend(session: 2, by: 1), "all rows are reserved for open positions")
        bench.naive[1] = [[], []]
        for position in 0..<2 { bench.add(1, position) }
        bench.commit(1, 0..<2)
        bench.store.flush()
        #expect(bench.store.extend(session: 2, by: 1), "what was reserved and not used is free again")
        #expect(bench.equalsNaive(1))
        #expect(!bench.store.extend(session: 2, by: 3), "more than the budget can hold")
    }

    @Test("The least recently used session goes first, and comes back")
    func order() throws {
        let bench = try StoreBench { $0.rows = 20 }
        for session in 1...4 as ClosedRange<UInt64> { try bench.write(session, at: 0, [5]) }
        for session in [1, 3, 2, 4] as [UInt64] { _ = try bench.prepare(session, 1) }
        for (new, gone) in [(5, 1), (6, 3), (7, 2)] as [(UInt64, UInt64)] {
            try bench.write(new, at: 0, [5])
            #expect(bench.store.length(session: gone) == nil)
        }
        #expect(bench.store.length(session: 4) == 1)
        #expect(bench.store.statistics().evictions == 3)
        #expect(try bench.prepare(1, 1) == .ready)
        #expect(bench.equalsNaive(1))
        #expect(bench.store.statistics().reloads == 1)
    }

    @Test("Rows are counted as they are used, and all come back")
    func accounting() throws {
        let bench = try StoreBench { $0.rows = 100 }
        #expect(bench.store.statistics().budgetBytes == 100 * rowBytes(bench))
        for round in 0..<30 {
            try bench.write(1, at: 0, [1, 5, 2])
            #expect(bench.store.statistics().residentBytes == 8 * rowBytes(bench))
            #expect(try bench.prepare(1, 2) == .ready)
            #expect(bench.store.extend(session: 1, by: 17), "round \(round): 85 of 94 rows")
            bench.store.abandon(session: 1, from: 2)
            #expect(bench.store.statistics().residentBytes == 6 * rowBytes(bench))
        }
        bench.store.release(session: 1)
        #expect(bench.store.statistics().residentBytes == 0)
        #expect(try bench.prepare(2, 0) == .ready)
        #expect(bench.store.extend(session: 2, by: 20), "all 100 rows are free: nothing is reserved any more")
    }

    @Test("A session that does not fit is refused with advice, and the store goes on")
    func tooLarge() throws {
        let bench = try StoreBench { $0.rows = 40 }
        try bench.write(1, at: 0, [5, 5, 5, 5])
        try bench.reopen { $0.rows = 10 }
        let error = #expect(throws: KVStoreError.self) { try bench.prepare(1, 4) }
        #expect(error?.code == .full)
        #expect(error.map { "\($0)".contains("--resident-mib") } == true)
        bench.store.release(session: 1)
        try bench.write(2, at: 0, [5, 5])
        #expect(bench.equalsNaive(2))
    }
}
