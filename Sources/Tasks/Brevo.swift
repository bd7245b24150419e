/// BREVO: all prerequisites of a query node, in dependency order. The size is the number of nodes n.
///
/// Example: 7 needs 2 and 5, 5 needs 2 and 3, 3 needs 1; query 7. Depth first, 2; then for 5 (2 is there) 3, for it 1:
///
///     <bos> n02 n05 n01 n03 n05 n07 n03 n05 n02 n07 <query> n07 <ans> n02 n01 n03 n05 <eos>
///
/// A pair is (prerequisite, dependent); pairs come in random order. The answer is the depth-first post-order of the
/// query's ancestors, prerequisites in ascending order, the query left out: it is unique. Its nodes and the end token
/// are the targets.
public struct Brevo: SequenceTask {
    private static let query = 3
    private static let ans = 4
    private static let firstNode = 5
    /// Most prerequisites, and most dependents, of a node.
    static let largestDegree = 4

    public let name = TaskName.brevo
    public let vocabulary: [String]
    public let sizeUnit = "nodes"
    public let trainingSizes: ClosedRange<Int>
    public var choosableSizes: ClosedRange<Int>? { trainingSizes }
    private let sizes: SkewedSizes

    /// Options: nodes (30). Its longest row, 254 tokens, is the longest below a context of 256.
    public init(options: TaskOptions = TaskOptions()) throws(TaskError) {
        try options.check(only: ["nodes"], for: .brevo)
        let nodes = try resolve(
            options.nodes, default: 30, in: SkewedSizes.smallest...999, "nodes", of: .brevo)
        sizes = SkewedSizes(largest: nodes)
        trainingSizes = sizes.range
        vocabulary = CommonToken.words + ["<query>", "<ans>"] + nodeWords(nodes)
    }

    public var options: TaskOptions { TaskOptions(nodes: trainingSizes.upperBound) }

    /// With one leaf, and every other node with as many prerequisites as there are before it, four at most.
    public func longestRow(size: Int) -> Int {
        let edges = (1..<size).reduce(0) { $0 + min($1, Self.largestDegree) }
        return 2 * edges + (size - 1) + 5
    }

    public func drawSize(using rng: inout CounterRNG) -> Int { sizes.draw(using: &rng) }

    public func makeRow(size: Int, using rng: inout CounterRNG) -> Row {
        let nodes = rng.sample(size, of: Array(1...trainingSizes.upperBound))
        let edges = rng.shuffled(drawEdges(between: nodes, using: &rng))
        return row(edges, query: nodes[size - 1], size: size)
    }

    /// The row of a graph; pairs in the order of the edges.
    func row(_ edges: [Edge], query: Int, size: Int) -> Row {
        let answer = Self.prerequisites(of: query, in: edges)
        var text = RowText()
        text.give(CommonToken.bos)
        for edge in edges { text.give(token(edge.from), token(edge.to)) }
        text.give(Self.query, token(query), Self.ans)
        for node in answer { text.ask(token(node), difficulty: size) }
        text.ask(CommonToken.eos, difficulty: size)
        let canonical = edges.map { [$0.from, $0.to] }.sorted { $0.lexicographicallyPrecedes($1) }.flatMap(\.self)
        return text.row(
            .brevo, size: size, meta: .brevo(edges: edges, query: query, answer: answer),
            instanceHash: InstanceHash.of(canonical + [query]))
    }

    private func token(_ node: Int) -> Int { Self.firstNode + node - 1 }

    /// Nodes in the order of `nodes`: some leaves, then each with prerequisites among earlier ones that have room.
    private func drawEdges(between nodes: [Int], using rng: inout CounterRNG) -> [Edge] {
        var edges: [Edge] = []
        var dependents = [Int](repeating: 0, count: nodes.count)
        let leaves = rng.number(in: 1...((nodes.count - 1) / 4 + 1))
        for place in leaves..<nodes.count {
            let eligible = (0..<place).filter { dependents[$0] < Self.largestDegree }
            let count = rng.number(in: 1...min(Self.largestDegree, eligible.count))
            for chosen in rng.sample(count, of: eligible) {
                dependents[chosen] += 1
                edges.append(Edge(from: nodes[chosen], to: nodes[place]))
            }
        }
        return edges
    }

    /// All ancestors of the query in depth-first post-order, prerequisites ascending, the query left out.
    public static func prerequisites(of query: Int, in edges: [Edge]) -> [Int] {
        let direct = Dictionary(grouping: edges, by: \.to).mapValues { $0.map(\.from).sorted() }
        var seen: Set<Int> = [query]
        var order: [Int] = []
        func visit(_ node: Int) {
            for prerequisite in direct[node] ?? [] where seen.insert(prerequisite).inserted { visit(prerequisite) }
            order.append(node)
        }
        visit(query)
        return order.dropLast()
    }

    public func score(_ row: Row, predicted: [Int32]) -> Score {
        Score(answer: row.answer, predicted: predicted, isValidOrder: isValidOrder(row, predicted))
    }

    /// The same nodes, each after its own prerequisites, then the end token.
    private func isValidOrder(_ row: Row, _ predicted: [Int32]) -> Bool {
        guard case .brevo(let edges, _, let answer) = row.meta, predicted.last == Int32(CommonToken.eos) else {
            return false
        }
        let nodes = predicted.dropLast().map { Int($0) - Self.firstNode + 1 }
        guard nodes.sorted() == answer.sorted() else { return false }
        let place = Dictionary(uniqueKeysWithValues: nodes.enumerated().map { ($1, $0) })
        return edges.allSatisfy { edge in
            guard let dependent = place[edge.to] else { return true }
            return place[edge.from].map { $0 < dependent } ?? false
        }
    }

    /// Exact matches of a guess that knows the nodes but no edge: one of the ordered non-empty selections of the n-1
    /// nodes that are not the query.
    public func guessBaseline(size: Int) -> Double {
        var (selections, ordered) = (0.0, 1.0)
        for count in 1..<size {
            ordered *= Double(size - count)
            selections += ordered
        }
        return 1 / selections
    }
}
