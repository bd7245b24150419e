import Foundation
import KVStore
import TestKit
import Testing

@Suite("The store equals a naive model")
struct StoreModelTests {
    /// What a service may do, in random order: pipelined chunks that end out of order, work given up, positions
    /// written again, sessions released, evicted, dropped and read back, the whole store closed and opened.
    @Test("Random operations", arguments: [1, 2, 3, 4, 5, 6] as [UInt64], [Durability.process, .power])
    func random(_ seed: UInt64, _ durability: Durability) throws {
        var random = SplitMix(state: seed)
        let bench = try StoreBench {
            $0.rows = 160
            $0.durability = durability
            $0.mapBytes = 1 << 17
        }
        for _ in 0..<(durability == .process ? 1200 : 250) {
            let session = UInt64.random(in: 1...8, using: &random)
            let known = bench.naive[session]?.count ?? 0
            switch Int.random(in: 0..<20, using: &random) {
            case 0: bench.store.release(session: session)
            case 1:
                bench.store.drop(session: session)
                bench.naive[session] = nil
            case 2 where durability == .process: try bench.reopen()
            case 3: try abandoned(bench, session, at: known, &random)
            case 4...6: try pipelined(bench, session, at: Int.random(in: 0...known, using: &random), &random)
            case 7...9: #expect(try bench.prepare(session, known) == .ready)
            default:
                let position = known > 20 ? 0 : Int.random(in: 0...known, using: &random)
                try bench.write(session, at: position, depths(&random), flush: Bool.random(using: &random))
            }
            if bench.store.length(session: session) != nil { #expect(bench.equalsNaive(session)) }
        }
        bench.settle()
        for session in bench.naive.keys.sorted() {
            #expect(try bench.prepare(session, bench.naive[session]!.count) == .ready)
            #expect(bench.equalsNaive(session))
        }
        #expect(bench.acknowledged.failures == 0)
        let figures = bench.store.statistics()
        #expect(bench.evictions + figures.evictions > 0 && bench.reloads + figures.reloads > 0)
        for session in bench.naive.keys { bench.store.release(session: session) }
        #expect(bench.store.statistics().residentBytes == 0)
        let stored = try bench.keys("kv")
        #expect(stored.count == bench.naive.values.reduce(0) { $0 + $1.count })
        bench.close()
        #expect(try KVInspector(path: bench.path).verify().problems.isEmpty)
    }

    private func depths(_ random: inout SplitMix) -> [Int] {
        (0..<Int.random(in: 1...4, using: &random)).map { _ in Int.random(in: 1...5, using: &random) }
    }

    private func abandoned(_ bench: StoreBench, _ session: UInt64, at position: Int, _ random: inout SplitMix) throws {
        #expect(try bench.prepare(session, position) == .ready)
        let before = bench.naive[session] ?? []
        guard bench.store.extend(session: session, by: 2) else { return }
        bench.naive[session] = before + [[], []]
        for _ in 0..<Int.random(in: 0...5, using: &random) { bench.add(session, position) }
        bench.store.abandon(session: session, from: position)
        bench.naive[session] = before
    }

    /// Two chunks at work at once; the later one ends first.
    private func pipelined(_ bench: StoreBench, _ session: UInt64, at start: Int, _ random: inout SplitMix) throws {
        let (first, second) = (depths(&random), depths(&random))
        guard start + first.count + second.count < 26 else { return }
        #expect(try bench.prepare(session, start) == .ready)
        try bench.makeRoom(session, first.count)
        let middle = start + first.count
        #expect(try bench.prepare(session, middle) == .ready)
        try bench.makeRoom(session, second.count)
        let kept = (bench.naive[session] ?? []).prefix(start)
        bench.naive[session] = kept + [[[Float]]](repeating: [], count: first.count + second.count)
        for (position, count) in zip(start..., first + second) { for _ in 0..<count { bench.add(session, position) } }
        bench.commit(session, middle..<(middle + second.count))
        if Bool.random(using: &random) { bench.store.flush() }
        bench.commit(session, start..<middle)
        bench.store.flush()
    }

    @Test(
        "Records of odd shapes come back with the same bits, from memory and from the file",
        arguments: [(1, 1, 1), (1, 7, 3), (3, 5, 2), (2, 16, 8), (4, 33, 255)], StoredType.allCases)
    func shapes(_ shape: (layers: Int, width: Int, entries: Int), _ type: StoredType) throws {
        let bench = try StoreBench {
            $0.shape = CacheShape(layers: shape.layers, width: shape.width, maxEntries: shape.entries)
            $0.type = type
        }
        try bench.write(.max - 1, at: 0, [1, shape.entries, (shape.entries + 1) / 2])
        #expect(bench.equalsNaive(.max - 1))
        bench.settle()
        bench.store.release(session: .max - 1)
        #expect(try bench.prepare(.max - 1, 3) == .ready)
        #expect(bench.equalsNaive(.max - 1))
        try bench.reopen()
        #expect(try bench.prepare(.max - 1, 3) == .ready)
        #expect(bench.equalsNaive(.max - 1))
        bench.close()
        let summary = try KVInspector(path: bench.path).summary()
        let floats = (1 + shape.entries + (shape.entries + 1) / 2) * shape.layers * 2 * shape.width
        #expect(summary.recordBytes == 3 * 16 + floats * (type == .f32 ? 4 : 2))
    }

    @Test("A store may change its type: what was computed with another one is asked for again")
    func mixedTypes() throws {
        let bench = try StoreBench { $0.type = .bf16 }
        try bench.write(1, at: 0, [2, 3])
        try bench.reopen { $0.type = .f32 }
        #expect(try bench.prepare(1, 2) == .needContext(from: 0))
        bench.naive[1] = nil
        try bench.write(1, at: 0, [1, 4])
        try bench.reopen { $0.type = .f32 }
        #expect(try bench.prepare(1, 2) == .ready)
        #expect(bench.equalsNaive(1))
        bench.close()
        #expect(try KVInspector(path: bench.path).summary().dtype == "f32")
    }

    @Test("Truncation voids records with the next commit, not before")
    func truncation() throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [1, 2, 3, 4])
        bench.settle()
        #expect(try bench.prepare(1, 1) == .ready)
        bench.settle()
        #expect(try bench.keys("kv").count == 4)
        try bench.write(1, at: 1, [5])
        bench.settle()
        #expect(try bench.keys("kv") == ["00000000000000010000000000", "00000000000000010000000104"])
        #expect(bench.equalsNaive(1))
    }

    @Test("Sessions whose numbers differ in one bit do not touch")
    func neighbours() throws {
        let bench = try StoreBench()
        let sessions = [0, 1, 255, 256, 1 << 32, (1 << 32) + 1, .max - 1] as [UInt64]
        for session in sessions { try bench.write(session, at: 0, [2, 2]) }
        try bench.write(256, at: 1, [3])
        bench.store.drop(session: 1 << 32)
        bench.naive[1 << 32] = nil
        try bench.reopen()
        for session in sessions {
            #expect(try bench.prepare(session, bench.naive[session]?.count ?? 0) == .ready)
            #expect(bench.equalsNaive(session))
        }
    }
}
