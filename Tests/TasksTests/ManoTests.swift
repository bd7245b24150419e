import Testing

@testable import Tasks

/// A second reading of a prefix expression: by recursion over words, from the left, with its height.
private struct Reader {
    private var words: ArraySlice<String>
    private let modulus: Int
    /// Operators of the left side of every operator, with all its operators.
    private(set) var lefts: [(left: Int, all: Int)] = []

    init(_ expression: some Sequence<String>, modulus: Int = 23) {
        words = ArraySlice(expression)
        self.modulus = modulus
    }

    var isAtEnd: Bool { words.isEmpty }

    mutating func read() -> (value: Int, height: Int, operators: Int) {
        let word = words.removeFirst()
        if let operand = Int(word) { return (operand, 0, 0) }
        let (left, right) = (read(), read())
        lefts.append((left.operators, left.operators + right.operators + 1))
        let value =
            switch word {
            case "+": left.value + right.value
            case "-": left.value - right.value
            default: left.value * right.value
            }
        return (
            (value % modulus + modulus) % modulus, 1 + max(left.height, right.height),
            left.operators + right.operators + 1
        )
    }
}

private func expression(_ row: Row, of task: any SequenceTask) -> [String] {
    row.tokens.dropFirst().dropLast(3).map { task.vocabulary[Int($0)] }
}

@Suite struct ManoTests {
    private let mano: Mano

    init() throws { mano = try Mano() }

    @Test func theExampleHasItsValueAndLayout() throws {
        let row = mano.row(try mano.tokens(of: "+ * 3 4 - 5 6").map(Int.init))
        #expect(mano.text(of: row.tokens) == "<bos> + * 3 4 - 5 6 <ans> 11 <eos>")
        #expect(row.answerMask == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])
        #expect(row.size == 3)
        #expect(row.difficulty == [3])
        #expect(row.meta == .mano(modulus: 23, value: 11))
    }

    @Test func thereAreThirtyTokensAndNoneTellsTheLength() {
        #expect(mano.vocabulary.prefix(8) == ["<pad>", "<bos>", "<eos>", "<ans>", "+", "-", "*", "0"])
        #expect(mano.vocabulary.count == 30)
    }

    @Test(arguments: [1, 2, 5, 16, 24])
    func everyRowIsOneExpressionWithItsValue(size: Int) {
        for row in instances(mano, size: size, count: 100) {
            let words = expression(row, of: mano)
            var reader = Reader(words)
            let found = reader.read()
            #expect(reader.isAtEnd)
            #expect(found.operators == size)
            #expect(row.meta == .mano(modulus: 23, value: found.value))
            #expect(mano.text(of: row.answer) == String(found.value))
            #expect(row.tokens.count == 2 * size + 5)
        }
    }

    @Test func theEndTokenIsATargetOnRequest() throws {
        let row = instances(try Mano(options: TaskOptions(supervisesEnd: true)), size: 4, count: 1)[0]
        #expect(row.targets == [row.tokens.count - 2, row.tokens.count - 1])
        #expect(row.difficulty == [4, 4])
    }

    @Test func operatorsOperandsAndLeftSidesAreFlat() {
        var counts: [String: Int] = [:]
        var lefts = [Int](repeating: 0, count: 6)
        for row in instances(mano, size: 6, count: 800) {
            let words = expression(row, of: mano)
            for word in words { counts[word, default: 0] += 1 }
            var reader = Reader(words)
            _ = reader.read()
            for split in reader.lefts where split.all == 6 { lefts[split.left] += 1 }
        }
        let operators = ["+", "-", "*"].map { counts[$0] ?? 0 }
        let operands = (0..<23).map { counts[String($0)] ?? 0 }
        #expect(chiSquareIsPlausible(operators, expected: [Double](repeating: 1 / 3, count: 3)))
        #expect(chiSquareIsPlausible(operands, expected: [Double](repeating: 1 / 23, count: 23)))
        #expect(chiSquareIsPlausible(lefts, expected: [Double](repeating: 1 / 6, count: 6)))
    }

    @Test(arguments: [(4, 3.3), (8, 5.0), (10, 5.6), (13, 6.4), (16, 7.1), (24, 8.4)])
    func treesAreAsHighAsTheBenchmarks(size: Int, height: Double) {
        let heights = instances(mano, size: size, count: 500).map { row in
            var reader = Reader(expression(row, of: mano))
            return reader.read().height
        }
        #expect(Sample(heights).isNear(height, rounding: 0.05))
    }

    /// Published shares of the value 0, measured to three digits.
    @Test(arguments: [(1, 0.057), (2, 0.061), (4, 0.067), (8, 0.070), (10, 0.069), (16, 0.073)])
    func zeroIsTheCommonestValue(size: Int, share: Double) {
        let distribution = mano.valueDistribution(size: size)
        #expect(abs(distribution[0] - share) < 0.0025)
        #expect(distribution.dropFirst().allSatisfy { $0 < 0.0475 })
        #expect(abs(distribution.reduce(0, +) - 1) < 1e-12)
        #expect(mano.guessBaseline(size: size) == distribution[0])
        let zeros = instances(mano, size: size, count: 2000).map { $0.meta == .mano(modulus: 23, value: 0) ? 1 : 0 }
        #expect(Sample(zeros).isNear(distribution[0]))
    }

    /// The table of docs/tasks.md.
    @Test(arguments: [(1, 0.057), (2, 0.062), (4, 0.066), (8, 0.069), (10, 0.070), (16, 0.072), (24, 0.074)])
    func theDocumentedBaselineIsExact(size: Int, share: Double) {
        #expect(abs(mano.guessBaseline(size: size) - share) <= 0.0005)
    }

    /// Values with one operation on 0..<23: 45 of 529 products are 0, one sum and one difference in 23.
    @Test func oneOperationsDistributionIsCountedByHand() {
        #expect(abs(mano.valueDistribution(size: 1)[0] - (2.0 / 23 + 45.0 / 529) / 3) < 1e-15)
    }

    @Test(arguments: [(2, 0.97), (8, 0.94), (16, 0.92)])
    func anotherOperandMostlyGivesAnotherValue(size: Int, share: Double) {
        var rng = CounterRNG(seed: 3, stream: 0, index: 0)
        let changed = instances(mano, size: size, count: 1000).map { row in
            var words = expression(row, of: mano)
            let operands = words.indices.filter { Int(words[$0]) != nil }
            let place = operands[rng.below(operands.count)]
            words[place] = String(((Int(words[place]) ?? 0) + 1 + rng.below(22)) % 23)
            let tokens = words.compactMap { mano.vocabulary.firstIndex(of: $0) }
            return mano.row(tokens).meta == row.meta ? 0 : 1
        }
        #expect(Sample(changed).isNear(share, rounding: 0.005))
    }

    @Test func anotherModulusHasItsOwnOperands() throws {
        let small = try Mano(options: TaskOptions(modulus: 5))
        #expect(small.vocabulary.count == 12)
        for row in instances(small, size: 3, count: 50) {
            var reader = Reader(expression(row, of: small), modulus: 5)
            #expect(row.meta == .mano(modulus: 5, value: reader.read().value))
        }
    }
}
