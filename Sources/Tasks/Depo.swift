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
        let starts = rng.sample(min(size, queries), of: cycle)
        let asked = starts.map { (start: $0, k: rng.number(in: 1...hops)) }
        return row(edges, asked: asked)
    }

    /// The row of a cycle's edges, pairs in their order, with these queries.
    func row(_ edges: [Edge], asked: [(start: Int, k: Int)]) -> Row {
        let size = edges.count
        let cycle = Self.cycle(edges)
        let queries = asked.map { start, k in
            let place = cycle.firstIndex(of: start) ?? 0
            return Hop(start: start, k: k, answer: cycle[(place + k) % size])
        }
        var text = RowText()
        text.give(CommonToken.bos)
        for edge in edges { text.give(token(edge.from), token(edge.to)) }
        for hop in queries {
            text.give(Self.firstQuery + hop.k - 1, token(hop.start), Self.ans)
            text.ask(token(hop.answer), difficulty: hop.k)
            text.give(Self.eoa)
        }
        text.give(CommonToken.eos)
        return text.row(
            .depo, size: size, meta: .depo(edges: edges, queries: queries), instanceHash: InstanceHash.of(cycle))
    }

    private func token(_ node: Int) -> Int { Self.firstQuery + hops + node - 1 }

    /// The nodes from the smallest on. Their hash is the instance's: a cycle lies in one split with all its queries.
    private static func cycle(_ edges: [Edge]) -> [Int] {
        let next = Dictionary(uniqueKeysWithValues: edges.map { ($0.from, $0.to) })
        var cycle: [Int] = []
        var node = next.keys.min()
        while let here = node, cycle.count < edges.count {
            cycle.append(here)
            node = next[here]
        }
        return cycle
    }

    /// Share of right answers of a guess among the n nodes of the row.
    public func guessBaseline(size: Int) -> Double { 1 / Double(size) }
}
