/// Additions and multiplications of one sum of the parser. A product is counted where both factors are non-zero, an
/// addition where a cell gets a second summand: dense loops would only count the position.
public struct Operations: Sendable, Equatable {
    public internal(set) var additions = 0
    public internal(set) var multiplications = 0

    public init() {}
}

/// Non-zero weights of symbols over one span; few, so a list.
struct SpanCells: Sendable {
    private(set) var entries: [BinaryGrammar.Weighted] = []

    var isEmpty: Bool { entries.isEmpty }

    func weight(of symbol: Int) -> Double? { entries.first { $0.symbol == symbol }?.weight }

    /// Adds a product and counts it.
    mutating func add(_ product: Double, to symbol: Int, counting operations: inout Operations) {
        operations.multiplications += 1
        guard let place = entries.firstIndex(where: { $0.symbol == symbol }) else {
            return entries.append(BinaryGrammar.Weighted(symbol: symbol, weight: product))
        }
        operations.additions += 1
        entries[place] = BinaryGrammar.Weighted(symbol: symbol, weight: entries[place].weight + product)
    }
}

/// `parent` has its left child on the span from `start` to the split and still wants `right` from there on.
struct HalfRule: Sendable {
    let start: Int
    let parent: Int
    let right: Int
    var weight: Double
}

/// All half rules of one split, grouped by start in ascending order.
struct SplitCells: Sendable {
    private(set) var entries: [HalfRule] = []

    /// Adds a product and counts it; starts must not descend from call to call.
    mutating func add(_ half: HalfRule, counting operations: inout Operations) {
        operations.multiplications += 1
        var place = entries.count - 1
        while place >= 0, entries[place].start == half.start {
            if entries[place].parent == half.parent, entries[place].right == half.right {
                operations.additions += 1
                entries[place].weight += half.weight
                return
            }
            place -= 1
        }
        entries.append(half)
    }
}

/// Inside weights of a growing string, the part of the parser that looks at complete spans.
///
/// Boundaries are 0…N. beta[i][k][X] is the weight of X yielding tokens i..<k; only the newest end is kept.
/// gamma[i][j][X, Z] = Σ_Y w(X → Y Z) · beta[i][j][Y] is kept for every split j.
struct InsideChart: Sendable {
    let grammar: BinaryGrammar
    /// beta[i][N] by start i.
    private(set) var beta: [SpanCells] = []
    /// gamma[.][j] by split j, 0..<N.
    private(set) var gamma: [SplitCells] = []
    /// Of the last token.
    private(set) var gammaOperations = Operations()
    private(set) var betaOperations = Operations()

    init(_ grammar: BinaryGrammar) { self.grammar = grammar }

    /// Tokens so far, N.
    var length: Int { gamma.count }

    /// Weight of the whole string as a sentence.
    var inside: Double { beta.first?.weight(of: grammar.start) ?? 0 }

    /// Takes one more token. One the grammar does not know leaves nothing complete.
    mutating func append(_ terminal: Int) {
        gammaOperations = Operations()
        betaOperations = Operations()
        splitAtEnd()
        completeSpans(terminal)
    }

    /// gamma at the last end, which is now a split: the newest of which both sides can be complete.
    private mutating func splitAtEnd() {
        var cells = SplitCells()
        for (start, span) in beta.enumerated() {
            for left in span.entries {
                for rule in grammar.rules[left.symbol] {
                    let half = HalfRule(
                        start: start, parent: rule.parent, right: rule.right, weight: rule.weight * left.weight)
                    cells.add(half, counting: &gammaOperations)
                }
            }
        }
        gamma.append(cells)
    }

    /// beta at the new end. Splits descend, so that beta[j][N] is complete before it is a right child.
    private mutating func completeSpans(_ terminal: Int) {
        beta = [SpanCells](repeating: SpanCells(), count: length)
        if let symbol = grammar.preterminal[terminal] {
            var lexical = Operations()  // the lexicon is looked up, not computed
            beta[length - 1].add(1, to: symbol, counting: &lexical)
        }
        for split in stride(from: length - 1, to: 0, by: -1) where !beta[split].isEmpty {
            for half in gamma[split].entries {
                guard let right = beta[split].weight(of: half.right) else { continue }
                beta[half.start].add(half.weight * right, to: half.parent, counting: &betaOperations)
            }
        }
    }
}
