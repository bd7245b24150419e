import Kernels
import Testing

/// A cache of rows (keys of all KV heads, then their values, then a gap) and one query row.
struct AttentionCase: Sendable {
    var heads = 8
    var kvHeads = 8
    var d = 64
    var count = 64
    var seed: UInt64 = 1
    /// Largest element of a query: the larger, the further apart the scores.
    var reach: Float = 2
    /// The list that is said to be read next.
    var next: [UInt32] = []

    var width: Int { kvHeads * d }
    var stride: Int { 2 * width + 5 }
    var query: [Float] { values(heads * d, in: -reach...reach, seed: seed) }
    var cache: [Float] { values(stride * 2 * count, in: -2...2, seed: seed + 1) }
    /// Every other row, last first, so that neither order nor neighbourhood is assumed.
    var rows: [UInt32] { (0..<count).map { UInt32(2 * (count - 1 - $0)) } }

    func fast(cache: [Float], offset: Int = 0) -> [Float] {
        run(query, [Int32(count)], cache: cache.map(\.bitPattern), ANIRA_KV_F32, offset: offset)
    }

    /// The same with keys and values held in two bytes each.
    func short(_ type: anira_kv_type, cache: [Float]) -> [Float] {
        var bits = [UInt16](repeating: 0, count: cache.count)
        anira_store_cached(type, cache, Int32(cache.count), &bits)
        return run(query, [Int32(count)], cache: bits, type)
    }

    private func run<Bits>(
        _ queries: [Float], _ counts: [Int32], cache: [Bits], _ type: anira_kv_type, offset: Int = 0
    ) -> [Float] {
        let (m, n) = (Int32(counts.count), counts.max() ?? 0)
        let room = anira_attention_scratch(m, Int32(heads), Int32(kvHeads), n, Int32(d))
        var scratch = [Float](repeating: .nan, count: room)
        var out = [Float](repeating: 0, count: counts.count * heads * d)
        cache.withUnsafeBytes { bytes in
            var rows = anira_cache(
                type: type, rows: bytes.baseAddress, stride: stride * MemoryLayout<Bits>.size, keys: offset,
                values: offset + width)
            anira_attention(
                queries, Int32(heads * d), counts, m, &rows, self.rows, next, Int32(next.count), Int32(heads),
                Int32(kvHeads), Int32(d), 0.2, &scratch, &out, Int32(heads * d))
        }
        return out
    }

    /// Several queries together, query r seeing the first counts[r] positions.
    func together(_ queries: [[Float]], counts: [Int32]) -> [Float] {
        run(Array(queries.joined()), counts, cache: cache.map(\.bitPattern), ANIRA_KV_F32)
    }

    func naive() -> [Float] {
        var out = [Float](repeating: 0, count: heads * d)
        anira_reference_attention(
            query, cache, stride, 0, width, rows, Int32(count), Int32(heads), Int32(kvHeads), Int32(d), 0.2, &out)
        return out
    }
}

@Suite struct AttentionTests {
    @Test(arguments: [12, 16, 24, 32, 64, 80, 128], [1, 2, 3, 4, 5, 16, 33])
    func `equals the naive attention`(d: Int, count: Int) {
        let attention = AttentionCase(heads: 4, kvHeads: 4, d: d, count: count)
        #expect(largestDifference(attention.fast(cache: attention.cache), attention.naive()) < 1e-5)
    }

    /// Weights down to nothing, and maxima that rise at many places.
    @Test(arguments: [1, 7, 8, 9, 40, 150], [20, 200] as [Float])
    func `scores far apart equal the naive attention`(count: Int, reach: Float) {
        let attention = AttentionCase(heads: 3, kvHeads: 3, d: 24, count: count, reach: reach)
        #expect(largestDifference(attention.fast(cache: attention.cache), attention.naive()) < 1e-4)
    }

    @Test(arguments: [1, 2, 4, 8])
    func `query heads share KV heads`(kvHeads: Int) {
        let attention = AttentionCase(kvHeads: kvHeads, count: 21)
        #expect(largestDifference(attention.fast(cache: attention.cache), attention.naive()) < 1e-5)
    }

    @Test(arguments: [12, 64], [(1, 8), (8, 1)])
    func `short keys and values are those floats rounded`(d: Int, heads: (query: Int, shared: Int)) {
        // One query and, with eight query heads over one KV head, the packed way.
        let attention = AttentionCase(
            heads: heads.query * heads.shared, kvHeads: heads.query, d: d, count: 37)
        let halves = attention.cache.map { Float(Float16($0)) }
        #expect(bits(attention.short(ANIRA_KV_F16, cache: attention.cache)) == bits(attention.fast(cache: halves)))
        let brief = attention.cache.map {
            Float(bitPattern: ($0.bitPattern &+ 0x7fff &+ ($0.bitPattern >> 16 & 1)) & ~0xffff)
        }
        #expect(bits(attention.short(ANIRA_KV_BF16, cache: attention.cache)) == bits(attention.fast(cache: brief)))
    }

    @Test(arguments: [1, 5, 8, 9, 24], [1, 3, 8, 20])
    func `what is read next changes no bit`(count: Int, next: Int) {
        var attention = AttentionCase(count: count)
        let alone = attention.fast(cache: attention.cache)
        attention.next = (0..<next).map { UInt32($0 % (2 * count)) }
        #expect(bits(attention.fast(cache: attention.cache)) == bits(alone))
    }

    @Test func `one position shows its value`() {
        let attention = AttentionCase(heads: 2, kvHeads: 1, d: 12, count: 1)
        let value = attention.cache[12..<24]
        #expect(attention.fast(cache: attention.cache) == Array(value + value))
    }

    @Test(arguments: 1...4)
    func `alignment changes no bit`(offset: Int) {
        let attention = AttentionCase(count: 37)
        let shifted = [Float](repeating: 0, count: offset) + attention.cache
        #expect(bits(attention.fast(cache: shifted, offset: offset)) == bits(attention.fast(cache: attention.cache)))
    }

    /// Also where so many share a list that it is packed first: groups of twelve, blocks of 64 positions, in which maxima
    /// rise at other places for each.
    @Test(
        arguments: [1, 2, 3, 9, 14, 40],
        [(24, 37, 2), (64, 37, 20), (33, 150, 2), (33, 150, 20), (16, 64, 2), (16, 73, 200)])
    func `queries together give what each gives alone`(m: Int, shape: (d: Int, count: Int, reach: Float)) {
        let counts = (0..<m).map { Int32(shape.count - (5 * $0) % (shape.count - 6)) }
        let cases = counts.indices.map {
            AttentionCase(
                heads: 4, kvHeads: 2, d: shape.d, count: shape.count, seed: UInt64($0 * 2 + 1), reach: shape.reach)
        }
        let shared = cases[0]
        let found = shared.together(cases.map(\.query), counts: counts)
        let width = shared.heads * shared.d
        for index in counts.indices {
            let alone = shared.together([cases[index].query], counts: [counts[index]])
            #expect(bits(row(index, of: found, width: width)) == bits(alone))
        }
        #expect(bits(row(0, of: found, width: width)) == bits(shared.fast(cache: shared.cache)))
    }

    @Test func `a head does not depend on its neighbours`() {
        let all = AttentionCase(heads: 4, kvHeads: 1, d: 32, count: 29)
        let one = AttentionCase(heads: 1, kvHeads: 1, d: 32, count: 29)
        let cache = all.cache
        #expect(bits(Array(all.fast(cache: cache)[0..<32])) == bits(one.fast(cache: cache)))
    }
}
