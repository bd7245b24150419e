/// A probabilistic context-free grammar without recursion: no symbol derives itself.
///
/// Symbols are numbers; those without rules are terminals. The rules of one symbol are equally likely. With two rules a
/// symbol, as in cfg3b, every weight is a power of two, and probabilities of strings are exact in Double.
public struct Grammar: Sendable {
    public let start: Int
    /// Right-hand sides by symbol.
    public let rules: [Int: [[Int]]]

    public init(start: Int, rules: [Int: [[Int]]]) {
        self.start = start
        self.rules = rules
    }

    /// The language of LANO: 16 symbols with two rules each, terminals 1, 2, 3, strings of 138…432 terminals.
    public static let cfg3b = Grammar(
        start: 22,
        rules: [
            22: [[21, 20], [20, 19]],
            21: [[18, 16], [16, 18, 17]], 20: [[17, 16, 18], [16, 17]], 19: [[16, 17, 18], [17, 18, 16]],
            18: [[15, 14, 13], [14, 13]], 17: [[14, 13, 15], [15, 13, 14]], 16: [[15, 13], [13, 15, 14]],
            15: [[12, 11, 10], [11, 12, 10]], 14: [[11, 10, 12], [10, 11, 12]], 13: [[11, 12], [12, 11]],
            12: [[8, 9, 7], [9, 7, 8]], 11: [[8, 7, 9], [7, 8, 9]], 10: [[7, 9, 8], [9, 8, 7]],
            9: [[3, 2, 1], [2, 1]], 8: [[3, 2], [3, 1, 2]], 7: [[3, 1], [1, 2, 3]],
        ])

    /// A string of the language.
    public struct Derivation: Sendable, Equatable {
        public let terminals: [Int]
        /// Rules that were chosen.
        public let branchings: Int
    }

    /// Expands the start symbol; `choose` picks one of the n rules of a symbol, 0..<n.
    public func derive(choose: (_ symbol: Int, _ rules: Int) -> Int) -> Derivation {
        var pending = [start]
        var terminals: [Int] = []
        var branchings = 0
        while let symbol = pending.popLast() {
            guard let sides = rules[symbol] else {
                terminals.append(symbol)
                continue
            }
            branchings += 1
            pending += sides[choose(symbol, sides.count)].reversed()
        }
        return Derivation(terminals: terminals, branchings: branchings)
    }

    /// Lengths of the shortest and the longest string.
    public var lengths: ClosedRange<Int> {
        func lengths(_ symbol: Int) -> ClosedRange<Int> {
            let sides = (rules[symbol] ?? []).map { side in
                side.map(lengths).reduce(0...0) {
                    ($0.lowerBound + $1.lowerBound)...($0.upperBound + $1.upperBound)
                }
            }
            guard let shortest = sides.map(\.lowerBound).min(), let longest = sides.map(\.upperBound).max() else {
                return 1...1
            }
            return shortest...longest
        }
        return lengths(start)
    }

    /// Expected number of each terminal in a string.
    public var terminalCounts: [Int: Double] {
        var known: [Int: [Int: Double]] = [:]
        func counts(_ symbol: Int) -> [Int: Double] {
            guard let sides = rules[symbol] else { return [symbol: 1] }
            if let found = known[symbol] { return found }
            var sum: [Int: Double] = [:]
            for child in sides.joined() {
                for (terminal, count) in counts(child) { sum[terminal, default: 0] += count / Double(sides.count) }
            }
            known[symbol] = sum
            return sum
        }
        return counts(start)
    }

    /// How many derivations a string has: 0 outside the language, 1 for the strings of cfg3b.
    public func parses(of terminals: some Sequence<Int>) -> Int {
        var chart = InsideChart(BinaryGrammar(self, weights: .counts))
        for terminal in terminals { chart.append(terminal) }
        return Int(chart.inside)
    }
}
