import Testing

@testable import Tasks

private struct Graph {
    let edges: [Edge]
    let query: Int
    let answer: [Int]

    init(_ row: Row) throws {
        guard case .brevo(let edges, let query, let answer) = row.meta else {
            throw TaskError(.unknownTask, "not a BREVO row")
        }
        (self.edges, self.query, self.answer) = (edges, query, answer)
    }

    /// Closure of the prerequisites, without an order.
    var ancestors: Set<Int> {
        var found: Set<Int> = []
        var border: Set = [query]
        while !border.isEmpty {
            border = Set(edges.filter { border.contains($0.to) }.map(\.from)).subtracting(found)
            found.formUnion(border)
        }
        return found
    }

    /// Removes nodes without prerequisites until none is left to remove.
    var isAcyclic: Bool {
        var left = edges
        while true {
            let blocked = Set(left.map(\.to))
            let rest = left.filter { blocked.contains($0.from) }
            if rest.count == left.count { return left.isEmpty }
            left = rest
        }
    }
}

@Suite struct BrevoTests {
    private let brevo: Brevo
    private let example = [(2, 5), (1, 3), (5, 7), (3, 5), (2, 7)].map { Edge(from: $0, to: $1) }

    init() throws { brevo = try Brevo() }

    @Test func theExampleHasItsAnswerAndLayout() {
        let row = brevo.row(example, query: 7, size: 5)
        let words = "<bos> n02 n05 n01 n03 n05 n07 n03 n05 n02 n07 <query> n07 <ans> n02 n01 n03 n05 <eos>"
        #expect(brevo.text(of: row.tokens) == words)
        #expect(row.targets == Array(14...18))
        #expect(row.difficulty == [5, 5, 5, 5, 5])
        #expect(row.meta == .brevo(edges: example, query: 7, answer: [2, 1, 3, 5]))
    }

    @Test func theOrderOfPairsIsNotPartOfTheQuestion() {
        let hashes = [example, example.reversed()].map { brevo.row($0, query: 7, size: 5).instanceHash }
        #expect(hashes[0] == hashes[1])
        #expect(hashes[0] != brevo.row(example, query: 5, size: 5).instanceHash)
        #expect(hashes[0] != brevo.row(Array(example.dropLast()), query: 7, size: 5).instanceHash)
    }

    @Test(arguments: [3, 4, 5, 12, 30])
    func graphsAreAcyclicWithFewEdgesANode(size: Int) throws {
        for row in instances(brevo, size: size, count: 60) {
            let graph = try Graph(row)
            #expect(graph.isAcyclic)
            #expect(Set(graph.edges).count == graph.edges.count)
            #expect(Dictionary(grouping: graph.edges, by: \.to).values.allSatisfy { $0.count <= 4 })
            #expect(Dictionary(grouping: graph.edges, by: \.from).values.allSatisfy { $0.count <= 4 })
            #expect(Set(graph.edges.flatMap { [$0.from, $0.to] }).count <= size)
        }
    }

    @Test(arguments: [3, 4, 5, 12, 30])
    func answersAreTheAncestorsInTheFirstDependencyOrder(size: Int) throws {
        for row in instances(brevo, size: size, count: 60) {
            let graph = try Graph(row)
            #expect(!graph.answer.isEmpty)
            #expect(Set(graph.answer) == graph.ancestors)
            #expect(graph.answer == postOrder(graph))
            #expect(brevo.score(row, predicted: row.answer).isValidOrder == true)
            #expect(brevo.tokens(graph.answer) + [2] == row.answer)
        }
    }

    /// Depth-first post-order with an explicit stack, where the task recurses.
    private func postOrder(_ graph: Graph) -> [Int] {
        var stack = [(node: graph.query, leaves: false)]
        var seen: Set<Int> = []
        var order: [Int] = []
        while let (node, leaves) = stack.popLast() {
            if leaves {
                order.append(node)
            } else if seen.insert(node).inserted {
                stack.append((node, true))
                stack += graph.edges.filter { $0.to == node }.map(\.from).sorted(by: >).map { ($0, false) }
            }
        }
        return order.dropLast()
    }

    /// Published means of 1,500 draws: nodes, edges, answer nodes, tokens of a row. Both sides are samples of that size.
    @Test(arguments: [
        (5, 6.5, 3.2, 21), (10, 18.3, 6.2, 48), (15, 30, 8.9, 74), (20, 41, 11.3, 99), (30, 63, 15.2, 146),
        (40, 86, 19.2, 195),
    ])
    func graphsHaveTheBenchmarksMeans(size: Int, edges: Double, answer: Double, tokens: Double) throws {
        let graphs = instances(try Brevo(options: TaskOptions(nodes: 40)), size: size, count: 750)
        let found = try graphs.map(Graph.init)
        #expect(Sample(found.map(\.edges.count)).isNear(edges, rounding: size < 15 ? 0.05 : 0.5, others: 1500))
        #expect(Sample(found.map(\.answer.count)).isNear(answer, rounding: 0.05, others: 1500))
        #expect(Sample(graphs.map(\.tokens.count)).isNear(tokens, rounding: 0.5, others: 1500))
    }

    @Test func hardlyAnyNodeIsWithoutAnEdge() throws {
        let missing = try instances(brevo, size: 10, count: 1500).map { row in
            10 - Set(try Graph(row).edges.flatMap { [$0.from, $0.to] }).count
        }
        #expect(Double(missing.reduce(0, +)) / 15_000 < 0.003)
    }

    @Test func thirtyNodesAreTheMostThatFitAContextOf256() throws {
        #expect(brevo.longestRow == 254)
        #expect(try Brevo(options: TaskOptions(nodes: 31)).longestRow > 256)
        let row = instances(brevo, size: 5, count: 1000).map(\.tokens.count).max()
        #expect(row == brevo.longestRow(size: 5))
    }

    @Test func anotherValidOrderPassesOnlyTheLooserScore() {
        let row = brevo.row(example, query: 7, size: 5)
        let other = brevo.score(row, predicted: brevo.tokens([1, 2, 3, 5]) + [2])
        #expect(!other.isExact)
        #expect(other.isValidOrder == true)
        #expect(other.correct == [false, false, true, true, true])
    }

    @Test(arguments: [[3, 1, 2, 5], [2, 1, 3], [2, 1, 3, 5, 7], [2, 2, 1, 3, 5], []])
    func ordersThatBreakTheRuleScoreNothing(nodes: [Int]) {
        let score = brevo.score(brevo.row(example, query: 7, size: 5), predicted: brevo.tokens(nodes) + [2])
        #expect(score.isValidOrder == false)
        #expect(!score.isExact)
    }

    @Test func anAnswerWithoutItsEndScoresNothing() {
        let score = brevo.score(brevo.row(example, query: 7, size: 5), predicted: brevo.tokens([2, 1, 3, 5]))
        #expect(score.isValidOrder == false)
        #expect(!score.isExact)
        #expect(score.tokenShare == 0.8)
    }

    /// 2 single nodes and 2 ordered pairs are the possible answers among two other nodes.
    @Test func guessingThreeNodesIsRightOneTimeInFour() {
        #expect(brevo.guessBaseline(size: 3) == 0.25)
        #expect(brevo.guessBaseline(size: 8) < 1e-4)
    }
}

extension Brevo {
    fileprivate func tokens(_ nodes: [Int]) -> [Int32] { nodes.map { Int32($0 + 4) } }
}
