/// Prefix probabilities token by token, and the work each token is: the incremental form of Nowak and Cotterell, "A fast
/// algorithm for computing prefix probabilities" (2023), O(N² V³ + N³ V²) at worst, far less where cells are empty.
///
/// Over the inside chart (beta, gamma) it keeps
///     delta[i][j][X, Z] = Σ_Y E[X, Y] · gamma[i][j][Y, Z]
/// with E the left corners of `BinaryGrammar`, and for the newest end N
///     pre[N-1][X] = E[X, preterminal of the last token],  pre[i][X] = Σ_{i<j<N} Σ_Z delta[i][j][X, Z] · pre[j][Z],
/// the probability that X yields a string that begins with tokens i..<N.
///
/// cfg3b has only powers of two as weights: every number here is exact in Double as long as its bits span 53 places.
/// A grammar with other weights and strings of hundreds of tokens needs logarithms instead.
public struct PrefixParser: Sendable {
    private var chart: InsideChart
    private var delta: [SplitCells] = []
    private let terminals: [Int]
    /// Probability that a string of the language begins with the tokens so far; 1 before the first.
    public private(set) var prefixProbability = 1.0

    /// What appending one token took and left behind.
    public struct Features: Sendable, Equatable {
        /// Non-zero cells (i, X, Z) of gamma at the newest split, N - 1.
        public let activeGammaSlice: Int
        /// Non-zero cells (i, X) of beta at the newest end, N.
        public let activeBetaEnd: Int
        public let gamma: Operations
        public let delta: Operations
        public let beta: Operations
        public let pre: Operations

        /// Additions of gamma and beta, the convention of our figures; the parts allow any other.
        public var additions: Int { gamma.additions + beta.additions }
        /// Multiplications of gamma and beta.
        public var multiplications: Int { gamma.multiplications + beta.multiplications }
    }

    public init(_ grammar: Grammar = .cfg3b) {
        chart = InsideChart(BinaryGrammar(grammar))
        terminals = chart.grammar.preterminal.keys.sorted()
    }

    /// Tokens so far.
    public var length: Int { chart.length }

    /// Probability of the tokens so far as a whole string of the language.
    public var insideProbability: Double { chart.inside }

    /// Takes one more token. A letter that cannot follow makes the prefix probability 0, for good.
    @discardableResult
    public mutating func append(_ terminal: Int) -> Features {
        chart.append(terminal)
        let deltaOperations = extendDelta()
        let preOperations = computePrefix(terminal)
        return Features(
            activeGammaSlice: chart.gamma[length - 1].entries.count,
            activeBetaEnd: chart.beta.reduce(0) { $0 + $1.entries.count },
            gamma: chart.gammaOperations, delta: deltaOperations, beta: chart.betaOperations, pre: preOperations)
    }

    /// True probabilities of what comes next: each terminal in ascending order, then the end. All 0 after a prefix that
    /// is none.
    public func nextProbabilities() -> [Double] {
        guard prefixProbability > 0 else { return [Double](repeating: 0, count: terminals.count + 1) }
        let continued = terminals.map { terminal in
            var next = self
            next.append(terminal)
            return next.prefixProbability
        }
        return (continued + [insideProbability]).map { $0 / prefixProbability }
    }

    private mutating func extendDelta() -> Operations {
        var operations = Operations()
        var cells = SplitCells()
        for half in chart.gamma[length - 1].entries {
            for corner in chart.grammar.leftCorners[half.parent] {
                let wider = HalfRule(
                    start: half.start, parent: corner.symbol, right: half.right, weight: corner.weight * half.weight)
                cells.add(wider, counting: &operations)
            }
        }
        delta.append(cells)
        return operations
    }

    /// pre at the new end, splits descending for the same reason as in beta.
    private mutating func computePrefix(_ terminal: Int) -> Operations {
        var operations = Operations()
        var pre = [SpanCells](repeating: SpanCells(), count: length)
        var looked = Operations()  // E is looked up, not computed
        for corner in chart.grammar.preterminal[terminal].map({ chart.grammar.leftCorners[$0] }) ?? [] {
            pre[length - 1].add(corner.weight, to: corner.symbol, counting: &looked)
        }
        for split in stride(from: length - 1, to: 0, by: -1) where !pre[split].isEmpty {
            for half in delta[split].entries {
                guard let right = pre[split].weight(of: half.right) else { continue }
                pre[half.start].add(half.weight * right, to: half.parent, counting: &operations)
            }
        }
        prefixProbability = pre[0].weight(of: chart.grammar.start) ?? 0
        return operations
    }
}
