import Testing

@testable import Tasks

/// What a model could read off without doing the task.
@Suite struct LeakTests {
    @Test(arguments: [TaskName.brevo, .depo], [4, 20])
    func nodeNamesDoNotTellTheSize(name: TaskName, size: Int) throws {
        let task = try makeTask(name, options: TaskOptions(nodes: 30))
        let nodes = instances(task, size: size, count: 300).flatMap { row in
            switch row.meta {
            case .depo(let edges, _), .brevo(let edges, _, _): Set(edges.flatMap { [$0.from, $0.to] })
            default: Set<Int>()
            }
        }
        let counts = (1...30).map { node in nodes.count { $0 == node } }
        // Nodes of one row differ from each other, so counts vary less than independent ones: the test is one-sided.
        #expect(chiSquareIsPlausible(counts, expected: [Double](repeating: 1 / 30, count: 30)))
    }

    @Test func theSuccessorsEdgeIsAnywhereInTheList() throws {
        var places = [Int](repeating: 0, count: 12)
        for row in instances(try Depo(), size: 12, count: 300) {
            guard case .depo(let edges, let queries) = row.meta else { continue }
            for query in queries.prefix(2) {
                places[edges.firstIndex { $0.from == query.answer } ?? 0] += 1
            }
        }
        #expect(chiSquareIsPlausible(places, expected: [Double](repeating: 1 / 12, count: 12)))
    }

    @Test func neighboursInTheListAreNotNeighboursOnTheCycle() throws {
        let chained = instances(try Depo(), size: 12, count: 500).map { row -> Int in
            guard case .depo(let edges, _) = row.meta else { return 0 }
            return zip(edges, edges.dropFirst()).count { $0.to == $1.from }
        }
        // 11 places, each followed by its successor with probability 1/11.
        #expect(Sample(chained).isNear(1))
    }

    @Test func theQuerysEdgesAreAnywhereInTheList() throws {
        let places = instances(try Brevo(), size: 12, count: 400).map { row -> Double in
            guard case .brevo(let edges, let query, _) = row.meta else { return 0 }
            let own = edges.indices.filter { edges[$0].to == query }
            return Double(own.reduce(0, +)) / Double(own.count * (edges.count - 1))
        }
        #expect(Sample(places).isNear(0.5))
    }

    /// A reader of the tokens without their order: the best of some sums over the operands. One operation is all a bag
    /// tells about (a third of the size-1 rows are sums); later sizes must not give it more than a guess.
    @Test(arguments: [8, 16])
    func aBagOfOperandsDoesNotGiveTheValue(size: Int) throws {
        let mano = try Mano()
        let rows = instances(mano, size: size, count: 1500)
        let bags: [([Int]) -> Int] = [
            { $0.reduce(0, +) % 23 }, { $0.reduce(1) { $0 * $1 % 23 } }, { $0.max() ?? 0 }, { $0.min() ?? 0 },
        ]
        for bag in bags {
            let right = rows.map { row in
                let operands = row.tokens.dropFirst().dropLast(3).map { Int($0) - 7 }.filter { $0 >= 0 }
                return row.meta == .mano(modulus: 23, value: bag(operands)) ? 1 : 0
            }
            let found = Sample(right)
            #expect(found.mean - 3 * found.standardError <= mano.guessBaseline(size: size))
        }
    }

    @Test func everyTargetIsPredictedFromSomethingBefore() throws {
        for name in TaskName.allCases {
            let row = try Dataset(task: try makeTask(name), split: .train, seed: 3).row(at: 0)
            #expect(row.targets.first ?? 0 > 0)
            #expect(row.tokens.count == row.answerMask.count)
            #expect(row.targets.count == row.difficulty.count)
        }
    }
}
