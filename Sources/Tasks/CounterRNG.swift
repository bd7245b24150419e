/// Random numbers from a counter: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
///
/// A stream is named by (seed, stream, index); no two streams share a block, and any of them is drawn again without
/// its neighbours. The seed is the key, the counter is [block, stream, index low, index high]. Bounded and real draws
/// are defined here: results must not depend on the algorithms of a standard library's version.
public struct CounterRNG: RandomNumberGenerator, Sendable {
    private let seed: UInt64
    private let stream: UInt32
    private let index: UInt64
    private var block: UInt32 = 0
    private var spare: UInt64?

    public init(seed: UInt64, stream: UInt32, index: UInt64) {
        self.seed = seed
        self.stream = stream
        self.index = index
    }

    /// 64 random bits; two calls use up one block.
    public mutating func next() -> UInt64 {
        if let spare {
            self.spare = nil
            return spare
        }
        let words = Self.block(
            counter: (block, stream, UInt32(truncatingIfNeeded: index), UInt32(truncatingIfNeeded: index >> 32)),
            key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
        block += 1
        spare = UInt64(words.2) | UInt64(words.3) << 32
        return UInt64(words.0) | UInt64(words.1) << 32
    }

    /// A number in 0..<bound, every one equally likely (Lemire's multiplication with rejection).
    public mutating func below(_ bound: Int) -> Int {
        precondition(bound > 0, "a draw below \(bound) has no outcome")
        let bound = UInt64(bound)
        var product = next().multipliedFullWidth(by: bound)
        if product.low < bound {
            let uneven = (0 &- bound) % bound
            while product.low < uneven { product = next().multipliedFullWidth(by: bound) }
        }
        return Int(product.high)
    }

    /// A number of the range, every one equally likely.
    public mutating func number(in range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.count)
    }

    /// A number in 0..<1: a multiple of 2^-53.
    public mutating func uniform() -> Double { Double(next() >> 11) * 0x1p-53 }

    /// `count` different elements in random order (the first steps of a Fisher-Yates shuffle).
    public mutating func sample<Element>(_ count: Int, of elements: [Element]) -> [Element] {
        var pool = elements
        for place in 0..<count { pool.swapAt(place, place + below(pool.count - place)) }
        return Array(pool.prefix(count))
    }

    /// All elements in random order.
    public mutating func shuffled<Element>(_ elements: [Element]) -> [Element] {
        sample(elements.count, of: elements)
    }

    /// Four random words of one counter under one key.
    static func block(
        counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)
    ) -> (UInt32, UInt32, UInt32, UInt32) {
        var (c, k) = (counter, key)
        for _ in 0..<10 {
            let first = UInt64(c.0) * 0xD251_1F53
            let second = UInt64(c.2) * 0xCD9E_8D57
            c = (
                UInt32(second >> 32) ^ c.1 ^ k.0, UInt32(truncatingIfNeeded: second),
                UInt32(first >> 32) ^ c.3 ^ k.1, UInt32(truncatingIfNeeded: first)
            )
            k = (k.0 &+ 0x9E37_79B9, k.1 &+ 0xBB67_AE85)
        }
        return c
    }
}
