/// DEPO: the k-th successor of a node on a directed cycle. The size is the number of nodes n, the difficulty k.
///
/// Example, cycle 4 → 9 → 2 → 7 → 4 with two queries:
///
///     <bos> n02 n07 n04 n09 n07 n04 n09 n02 <query-2> n09 <ans> n07 <eoa> <query-3> n07 <ans> n02 <eoa> <eos>
///
/// A pair is (node, successor); the n pairs come in random order. The targets are the nodes after `<ans>`. Queries of a
/// row start at different nodes. Where k reaches n the walk goes round: ask for n > K when k is to mean work.
public struct Depo: SequenceTask {
    private static let ans = 3
    private static let eoa = 4
    private static let firstQuery = 5

    public let name = TaskName.depo
    public let vocabulary: [String]
    public let sizeUnit = "nodes"
    public let trainingSizes: ClosedRange<Int>
    public var choosableSizes: ClosedRange<Int>? { trainingSizes }
    private let sizes: SkewedSizes
    private let hops: Int
    private let queries: Int

    /// Options: nodes (75), hops (8), queries (10).
    public init(options: TaskOptions = TaskOptions()) throws(TaskError) {
        try options.check(only: ["nodes", "hops", "queries"], for: .depo)
        let nodes = try resolve(options.nodes, default: 75, in: SkewedSizes.smallest...999, "nodes", of: .depo)
        hops = try resolve(options.hops, default: 8, in: 1...999, "hops", of: .depo)
        queries = try resolve(options.queries, default: 10, in: 1...999, "queries", of: .depo)
        sizes = SkewedSizes(largest: nodes)
        trainingSizes = sizes.range
        vocabulary = CommonToken.words + ["<ans>", "<eoa>"] + (1...hops).map { "<query-\($0)>" } + nodeWords(nodes)
    }

    public var options: TaskOptions {
        TaskOptions(nodes: trainingSizes.upperBound, hops: hops, queries: queries)
    }

    public func longestRow(size: Int) -> Int { 1 + 2 * size + 5 * min(size, queries) + 1 }

    public func drawSize(using rng: inout CounterRNG) -> Int { sizes.draw(using: &rng) }

    public func makeRow(size: Int, using rng: inout CounterRNG) -> Row {
        let cycle = rng.sample(size, of: Array(1...trainingSizes.upperBound))
        let edges = rng.shuffled(cycle.indices.map { Edge(from: cycle[$0], to: cycle[($0 + 1) % size]) })
        let asked = rng.sample(min(size, queries), of: Array(0..<size)).map { place in
            let k = rng.number(in: 1...hops)
            return Hop(start: cycle[place], k: k, answer: cycle[(place + k) % size])
        }
        var text = RowText()
        text.give(CommonToken.bos)
        for edge in edges { text.give(token(edge.from), token(edge.to)) }
        for hop in asked {
            text.give(Self.firstQuery + hop.k - 1, token(hop.start), Self.ans)
            text.ask(token(hop.answer), difficulty: hop.k)
            text.give(Self.eoa)
        }
        text.give(CommonToken.eos)
        return text.row(
            .depo, size: size, meta: .depo(edges: edges, queries: asked), instanceHash: Self.hash(ofCycle: cycle))
    }

    private func token(_ node: Int) -> Int { Self.firstQuery + hops + node - 1 }

    /// The cycle alone, from its smallest node: a cycle lies in one split with all its queries.
    private static func hash(ofCycle cycle: [Int]) -> UInt64 {
        let first = cycle.indices.min { cycle[$0] < cycle[$1] } ?? 0
        return InstanceHash.of(cycle[first...] + cycle[..<first])
    }

    /// Share of right answers of a guess among the n nodes of the row.
    public func guessBaseline(size: Int) -> Double { 1 / Double(size) }
}
