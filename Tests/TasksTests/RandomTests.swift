import Testing

@testable import Tasks

@Suite struct RandomTests {
    /// The three known answers of the Random123 distribution for philox4x32-10.
    @Test(
        arguments: [
            ([0, 0, 0, 0], [0, 0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff], [0xffff_ffff, 0xffff_ffff],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
            ),
        ] as [([UInt32], [UInt32], [UInt32])])
    func aBlockIsThePublishedAnswer(counter: [UInt32], key: [UInt32], expected: [UInt32]) {
        let block = CounterRNG.block(counter: (counter[0], counter[1], counter[2], counter[3]), key: (key[0], key[1]))
        #expect([block.0, block.1, block.2, block.3] == expected)
    }

    @Test func theFirstDrawsOfAStreamAreTheFirstBlocks() {
        var rng = CounterRNG(seed: 0, stream: 0, index: 0)
        #expect(rng.next() == 0xe169_c58d_6627_e8d5)
        #expect(rng.next() == 0x9b00_dbd8_bc57_ac4c)
        let second = CounterRNG.block(counter: (1, 0, 0, 0), key: (0, 0))
        #expect(rng.next() == UInt64(second.1) << 32 | UInt64(second.0))
    }

    @Test func aStreamIsNamedByAllItsParts() {
        let streams: [(UInt64, UInt32, UInt64)] = [
            (0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1 << 32),
        ]
        let firsts = streams.map { name in
            var rng = CounterRNG(seed: name.0, stream: name.1, index: name.2)
            return rng.next()
        }
        #expect(Set(firsts).count == streams.count)
    }

    @Test(arguments: [1, 2, 3, 7, 23, 1000])
    func boundedDrawsAreFlat(bound: Int) {
        var rng = CounterRNG(seed: 5, stream: 1, index: UInt64(bound))
        var counts = [Int](repeating: 0, count: bound)
        let draws = 20 * bound + 2000
        for _ in 0..<draws { counts[rng.below(bound)] += 1 }
        #expect(chiSquareIsPlausible(counts, expected: [Double](repeating: 1 / Double(bound), count: bound)))
    }

    @Test func aBoundThatDoesNotDivideTheWordIsStillFlat() {
        // Without the rejection, residues of 3 would come 3 : 3 : 2, as 2^64 words spread over 3 · 2^61 outcomes.
        let bound = 3 << 61
        var rng = CounterRNG(seed: 6, stream: 1, index: 0)
        var counts = [0, 0, 0]
        for _ in 0..<3000 { counts[rng.below(bound) % 3] += 1 }
        #expect(chiSquareIsPlausible(counts, expected: [1.0 / 3, 1.0 / 3, 1.0 / 3]))
    }

    @Test func realDrawsFillTheUnitInterval() {
        var rng = CounterRNG(seed: 7, stream: 1, index: 0)
        let draws = (0..<4000).map { _ in rng.uniform() }
        #expect(draws.allSatisfy { (0..<1).contains($0) })
        #expect(Sample(draws).isNear(0.5))
    }

    @Test func aSampleHasDifferentElementsInAnyOrder() {
        var rng = CounterRNG(seed: 8, stream: 1, index: 0)
        var orders: [[Int]: Int] = [:]
        for _ in 0..<2400 { orders[rng.sample(2, of: [1, 2, 3, 4]), default: 0] += 1 }
        #expect(orders.keys.allSatisfy { Set($0).count == 2 })
        #expect(chiSquareIsPlausible(Array(orders.values), expected: [Double](repeating: 1 / 12, count: 12)))
        #expect(rng.shuffled(Array(0..<50)).sorted() == Array(0..<50))
    }

    @Test func hashesDifferInTheirLowBits() {
        let residues = (0..<800).map { Int(InstanceHash.of([$0]) % 8) }
        let counts = (0..<8).map { residue in residues.count { $0 == residue } }
        #expect(chiSquareIsPlausible(counts, expected: [Double](repeating: 1 / 8, count: 8)))
        #expect(InstanceHash.of([1, 2]) != InstanceHash.of([2, 1]))
        #expect(InstanceHash.of([1]) != InstanceHash.of([1, 0]))
    }
}
