import Testing

@testable import Tasks

private func parts(_ row: Row) throws -> (edges: [Edge], queries: [Hop]) {
    guard case .depo(let edges, let queries) = row.meta else { throw TaskError(.unknownTask, "not a DEPO row") }
    return (edges, queries)
}

@Suite struct DepoTests {
    private let depo: Depo

    init() throws { depo = try Depo() }

    @Test func theExampleHasItsAnswersAndLayout() throws {
        let edges = [(2, 7), (4, 9), (7, 4), (9, 2)].map { Edge(from: $0, to: $1) }
        let row = depo.row(edges, asked: [(9, 2), (7, 3)])
        let words =
            "<bos> n02 n07 n04 n09 n07 n04 n09 n02 <query-2> n09 <ans> n07 <eoa> <query-3> n07 <ans> n02 <eoa> <eos>"
        #expect(depo.text(of: row.tokens) == words)
        #expect(row.targets == [12, 17])
        #expect(row.difficulty == [2, 3])
        #expect(row.size == 4)
        let queries = [Hop(start: 9, k: 2, answer: 7), Hop(start: 7, k: 3, answer: 2)]
        #expect(row.meta == .depo(edges: edges, queries: queries))
        let turned = depo.row(edges.reversed(), asked: [(2, 1)])
        #expect(turned.instanceHash == row.instanceHash)
    }

    @Test(arguments: [3, 4, 8, 9, 25, 75])
    func edgesAreOneCycleAndAnswersAreWalks(size: Int) throws {
        for row in instances(depo, size: size, count: 40) {
            let (edges, queries) = try parts(row)
            let next = Dictionary(uniqueKeysWithValues: edges.map { ($0.from, $0.to) })
            #expect(steps(edges[0].from, next, until: edges[0].from) == size)
            #expect(Set(queries.map(\.start)).count == min(size, 10))
            for query in queries {
                var node = query.start
                for _ in 0..<query.k { node = try #require(next[node]) }
                #expect(node == query.answer)
            }
            #expect(row.difficulty == queries.map(\.k))
            #expect(depo.text(of: row.answer) == queries.map { depo.nodeWord($0.answer) }.joined(separator: " "))
            #expect(row.tokens.count == depo.longestRow(size: size))
        }
    }

    /// Edges from a node back to it; 0 when it is never reached again.
    private func steps(_ node: Int, _ next: [Int: Int], until end: Int) -> Int {
        var (here, count) = (next[node], 1)
        while let node = here, node != end, count <= next.count { (here, count) = (next[node], count + 1) }
        return here == end ? count : 0
    }

    @Test func hopsAreFlat() throws {
        let hops = try instances(depo, size: 20, count: 400).flatMap { try parts($0).queries.map(\.k) }
        let counts = (1...8).map { k in hops.count { $0 == k } }
        #expect(counts.reduce(0, +) == 4000)
        #expect(chiSquareIsPlausible(counts, expected: [Double](repeating: 1 / 8, count: 8)))
    }

    @Test func rowLengthsAreThoseOfTheStudy() throws {
        #expect(depo.longestRow == 202)
        #expect(try Depo(options: TaskOptions(nodes: 100)).longestRow == 252)
    }

    @Test func hopsAndQueriesAreOptions() throws {
        let short = try Depo(options: TaskOptions(nodes: 9, hops: 3, queries: 2))
        #expect(short.vocabulary.count == 5 + 3 + 9)
        for row in instances(short, size: 9, count: 50) {
            let queries = try parts(row).queries
            #expect(queries.count == 2)
            #expect(queries.allSatisfy { (1...3).contains($0.k) })
        }
    }

    @Test func aGuessIsRightOneTimeInN() { #expect(depo.guessBaseline(size: 25) == 0.04) }
}

extension Depo {
    fileprivate func nodeWord(_ node: Int) -> String { vocabulary[vocabulary.count - 75 + node - 1] }
}
