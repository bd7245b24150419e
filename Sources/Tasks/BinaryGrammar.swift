/// A grammar in Chomsky normal form, indexed for parsing from left to right.
///
/// A rule X → A B C becomes X → A X' and X' → B C with one X' a rule; each terminal gets a preterminal. cfg3b has 40
/// symbols then (16 + 21 + 3) and 53 binary rules. Symbols are numbered from 0.
public struct BinaryGrammar: Sendable {
    /// What a rule is worth.
    public enum Weights: Sendable {
        /// Its probability: 1 over the number of its symbol's rules.
        case probabilities
        /// 1, so that a string is worth the number of its parses.
        case counts
    }

    /// A rule seen from its left child: `parent` → left child, `right`.
    struct Rule: Sendable {
        let parent: Int
        let right: Int
        let weight: Double
    }

    /// A symbol with a weight.
    struct Weighted: Sendable {
        let symbol: Int
        let weight: Double
    }

    let start: Int
    let symbolCount: Int
    /// Rules by left child.
    let rules: [[Rule]]
    /// Symbol of each terminal.
    let preterminal: [Int: Int]
    /// E by column: for each symbol Y those X, Y included, with E[X, Y] > 0: the weight of all derivations of X whose
    /// left edge reaches Y. E = 1 + P + P² + …, P[X, Y] the weight of the rules X → Y Z; the sum is finite because the
    /// grammar is not recursive.
    let leftCorners: [[Weighted]]

    public init(_ grammar: Grammar, weights: Weights = .probabilities) {
        var binary = Numbering(grammar)
        var rules: [[Rule]] = []
        func add(_ parent: Int, _ left: Int, _ right: Int, _ weight: Double) {
            while rules.count <= left { rules.append([]) }
            rules[left].append(Rule(parent: parent, right: right, weight: weight))
        }
        for (symbol, sides) in grammar.rules.sorted(by: { $0.key > $1.key }) {
            let weight = weights == .counts ? 1 : 1 / Double(sides.count)
            for side in sides {
                let parts = side.map { binary.number[$0, default: 0] }
                precondition(parts.count == 2 || parts.count == 3, "a rule has two or three symbols on its right")
                var right = parts[1]
                if parts.count == 3 {
                    right = binary.fresh()
                    add(right, parts[1], parts[2], 1)
                }
                add(binary.number[symbol, default: 0], parts[0], right, weight)
            }
        }
        while rules.count < binary.count { rules.append([]) }
        self.rules = rules
        start = binary.number[grammar.start, default: 0]
        symbolCount = binary.count
        preterminal = binary.number.filter { grammar.rules[$0.key] == nil }
        leftCorners = Self.closure(rules)
    }

    /// Numbers for the grammar's symbols and terminals, then for the halves of ternary rules.
    private struct Numbering {
        var number: [Int: Int] = [:]
        var count: Int

        init(_ grammar: Grammar) {
            let symbols = Set(grammar.rules.keys).union(grammar.rules.values.joined().joined())
            for (place, symbol) in symbols.sorted(by: >).enumerated() { number[symbol] = place }
            count = symbols.count
        }

        mutating func fresh() -> Int {
            count += 1
            return count - 1
        }
    }

    /// All left corners by column, walking up from each symbol until no rule has the symbols reached as a left child.
    private static func closure(_ rules: [[Rule]]) -> [[Weighted]] {
        rules.indices.map { symbol in
            var total: [Int: Double] = [:]
            var layer = [symbol: 1.0]
            while !layer.isEmpty {
                var next: [Int: Double] = [:]
                for (reached, weight) in layer.sorted(by: { $0.key < $1.key }) {
                    total[reached, default: 0] += weight
                    for rule in rules[reached] { next[rule.parent, default: 0] += weight * rule.weight }
                }
                layer = next
            }
            return total.sorted { $0.key < $1.key }.map { Weighted(symbol: $0.key, weight: $0.value) }
        }
    }
}
