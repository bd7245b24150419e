import Foundation
import Testing

@testable import Tasks

/// What always taking one of a symbol's two rules gives, computed by an independent parser.
struct GoldenString: Sendable, CustomTestStringConvertible {
    let rule: Int
    let length: Int
    let branchings: Int
    let start: [Int]
    let log2Prefix: [Double]
    let gammaSlice: [Int]
    let gammaSum: Int
    let betaEnd: [Int]
    let betaSum: Int

    var testDescription: String { rule == 0 ? "the first rules" : "the second rules" }

    static let all = [
        GoldenString(
            rule: 0, length: 238, branchings: 157, start: [3, 2, 3, 2, 1, 3, 1, 3, 2, 3, 1, 3],
            log2Prefix: [-0.476438, -1.540568, -3.192645, -4.415037, -4.415037, -5.415037],
            gammaSlice: [0, 4, 7, 4, 7, 10, 4, 9, 4, 13, 4, 6], gammaSum: 1814,
            betaEnd: [1, 2, 2, 2, 5, 1, 5, 1, 5, 2, 3, 1], betaSum: 804),
        GoldenString(
            rule: 1, length: 296, branchings: 170, start: [2, 1, 1, 2, 3, 3, 1, 2, 1, 2, 3, 3],
            log2Prefix: [-3, -3, -4.415037, -4.415037, -4.415037, -4.415037, -5.415037],
            gammaSlice: [0, 3, 6, 2, 3, 8, 4, 6, 10, 6, 3, 8], gammaSum: 1960,
            betaEnd: [1, 3, 1, 2, 4, 1, 2, 5, 4, 2, 4, 1], betaSum: 941),
    ]

    var derivation: Grammar.Derivation { Grammar.cfg3b.derive { _, _ in rule } }
}

@Suite struct LanoTests {
    private let lano: Lano

    init() throws { lano = try Lano() }

    @Test func theGrammarHasItsPublishedShape() {
        let rules = Grammar.cfg3b.rules.values.joined()
        #expect(Grammar.cfg3b.rules.count == 16)
        #expect(rules.count { $0.count == 3 } == 21)
        #expect(rules.count { $0.count == 2 } == 11)
        #expect(Grammar.cfg3b.lengths == 138...432)
        let binary = BinaryGrammar(.cfg3b)
        #expect(binary.symbolCount == 40)
        #expect(binary.rules.joined().count == 53)
    }

    @Test(arguments: GoldenString.all)
    func theParserReproducesTheGoldenStrings(golden: GoldenString) {
        let derivation = golden.derivation
        #expect(derivation.terminals.count == golden.length)
        #expect(derivation.branchings == golden.branchings)
        #expect(Array(derivation.terminals.prefix(12)) == golden.start)
        var parser = PrefixParser()
        var features: [PrefixParser.Features] = []
        var log2Prefix: [Double] = []
        for terminal in derivation.terminals {
            features.append(parser.append(terminal))
            log2Prefix.append(log2(parser.prefixProbability))
        }
        #expect(zip(log2Prefix, golden.log2Prefix).allSatisfy { abs($0 - $1) < 1e-6 })
        #expect(features.prefix(12).map(\.activeGammaSlice) == golden.gammaSlice)
        #expect(features.reduce(0) { $0 + $1.activeGammaSlice } == golden.gammaSum)
        #expect(features.prefix(12).map(\.activeBetaEnd) == golden.betaEnd)
        #expect(features.reduce(0) { $0 + $1.activeBetaEnd } == golden.betaSum)
        #expect(parser.insideProbability == exp2(-Double(golden.branchings)))
        #expect(parser.prefixProbability == parser.insideProbability)
    }

    @Test(arguments: GoldenString.all)
    func continuationsAddUpToTheirPrefixExactly(golden: GoldenString) {
        var parser = PrefixParser()
        for terminal in golden.derivation.terminals.prefix(60) {
            let continued = (1...3).reduce(parser.insideProbability) { sum, next in
                var longer = parser
                longer.append(next)
                return sum + longer.prefixProbability
            }
            #expect(continued == parser.prefixProbability)
            parser.append(terminal)
        }
    }

    static let prefixes: [([Int], Double)] = [
        ([3], 0.71875), ([1], 0.15625), ([2], 0.125), ([3, 1, 2], 0.234375), ([3, 2, 1], 0.1875), ([1, 2, 3], 0.15625),
        ([3, 1, 3], 0.140625), ([3, 2, 3], 0.109375), ([2, 1, 3], 0.078125), ([1, 1], 0), ([9], 0), ([], 1),
    ]

    @Test(arguments: prefixes)
    func shortPrefixesHaveTheirProbabilities(prefix: [Int], probability: Double) {
        var parser = PrefixParser()
        for terminal in prefix { parser.append(terminal) }
        #expect(parser.prefixProbability == probability)
    }

    @Test func onlyEightPrefixesOfThreeLettersExist() {
        var found = 0
        for first in 1...3 {
            for second in 1...3 {
                for third in 1...3 {
                    var parser = PrefixParser()
                    for letter in [first, second, third] { parser.append(letter) }
                    if parser.prefixProbability > 0 { found += 1 }
                }
            }
        }
        #expect(found == 8)
    }

    @Test func nextProbabilitiesAreConditional() {
        var parser = PrefixParser()
        #expect(parser.nextProbabilities() == [0.15625, 0.125, 0.71875, 0])
        for terminal in GoldenString.all[0].derivation.terminals { parser.append(terminal) }
        #expect(parser.nextProbabilities() == [0, 0, 0, 1])
        parser.append(1)
        #expect(parser.nextProbabilities() == [0, 0, 0, 0])
    }

    @Test func sampledStringsHaveOneParseAndTheirDerivationsProbability() throws {
        for row in instances(lano, count: 6, seed: 11) {
            let letters = row.answer.compactMap(Lano.terminal)
            #expect(row.size == letters.count)
            #expect(lano.grammar.parses(of: letters) == 1)
            guard case .lano(let derivation) = row.meta else { return }
            var parser = PrefixParser()
            for letter in letters { parser.append(letter) }
            #expect(abs(log(parser.insideProbability) - derivation) < 1e-9)
        }
    }

    @Test func stringsOutsideTheLanguageHaveNoParse() {
        let letters = GoldenString.all[0].derivation.terminals
        var swapped = letters
        swapped.swapAt(100, 101)
        #expect(lano.grammar.parses(of: letters) == 1)
        #expect(lano.grammar.parses(of: letters.dropLast()) == 0)
        #expect(lano.grammar.parses(of: letters + [1]) == 0)
        #expect(lano.grammar.parses(of: swapped) == 0)
        #expect(lano.grammar.parses(of: [7]) == 0)
        #expect(lano.grammar.parses(of: []) == 0)
    }

    /// S → a a a has both bracketings through S → A a | a A; A → a a.
    @Test func parsesOfAnAmbiguousGrammarAreCounted() {
        let grammar = Grammar(start: 10, rules: [10: [[11, 1], [1, 11]], 11: [[1, 1]]])
        #expect(grammar.parses(of: [1, 1, 1]) == 2)
    }

    @Test func lengthsAndPrefixesFollowTheGrammar() {
        let rows = instances(lano, count: 400)
        let lengths = Sample(rows.map(\.size))
        #expect(abs(lengths.mean - 275.625) < 3 * 41.71 / 20)
        #expect(rows.allSatisfy { (138...432).contains($0.size) && $0.tokens.count == $0.size + 2 })
        let expected: [([Int32], Double)] = [
            ([3, 1, 2], 0.234375), ([3, 2, 1], 0.1875), ([1, 2, 3], 0.15625), ([3, 1, 3], 0.140625),
            ([3, 2, 3], 0.109375), ([2, 1, 3], 0.078125),
        ]
        let counts = expected.map { prefix, _ in rows.count { $0.answer.prefix(3).map { $0 - 2 } == prefix } }
        let rest = rows.count - counts.reduce(0, +)
        let restShare = 1 - expected.reduce(0) { $0 + $1.1 }
        #expect(chiSquareIsPlausible(counts + [rest], expected: expected.map(\.1) + [restShare]))
    }

    @Test func everyTokenAfterTheFirstIsATarget() {
        let row = instances(lano, count: 1)[0]
        #expect(row.answerMask == [0] + [UInt8](repeating: 1, count: row.size + 1))
        #expect(row.difficulty == [Int](repeating: row.size, count: row.size + 1))
        #expect(lano.text(of: row.tokens).split(separator: " ").last == "<eos>")
    }

    @Test func theExpectedCountsOfLettersAddUpToTheMeanLength() {
        #expect(Grammar.cfg3b.terminalCounts.values.reduce(0, +) == 275.625)
        #expect(abs(lano.guessBaseline(size: 0) - 91.875 / 276.625) < 1e-12)
        let letters = instances(lano, count: 100).flatMap { $0.tokens.dropFirst() }
        let share = Double(letters.count { $0 == 5 }) / Double(letters.count)
        #expect(abs(lano.guessBaseline(size: 0) - share) < 0.005)
    }

    @Test func operationsAreCountedApart() {
        var parser = PrefixParser()
        let first = parser.append(3)
        #expect(first.multiplications == 0)
        #expect(first.pre == Operations())
        let second = parser.append(2)
        #expect(second.gamma.multiplications == second.activeGammaSlice + second.gamma.additions)
        #expect(second.multiplications == second.gamma.multiplications + second.beta.multiplications)
        #expect(second.pre.multiplications > 0)
    }
}
