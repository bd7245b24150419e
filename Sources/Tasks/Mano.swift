/// MANO: value of an arithmetic expression in prefix notation, modulo 23. The size is the number of operators L.
///
/// Example, L = 3, (3 · 4) + (5 − 6) = 11:
///
///     <bos> + * 3 4 - 5 6 <ans> 11 <eos>
///
/// The value is the target; with `supervisesEnd` the end token too. No token tells the length. The tree is not uniform
/// over shapes: an expression of l operators gives its left side uniformly 0…l-1 of the others.
public struct Mano: SequenceTask {
    /// Largest expression whose row fits 512 tokens, the longest context of the study.
    static let largest = 253
    private static let operators = ["+", "-", "*"]
    private static let ans = 3
    private static let firstOperator = 4
    private static let firstOperand = 7

    public let name = TaskName.mano
    public let vocabulary: [String]
    public let sizeUnit = "operators"
    public let trainingSizes: ClosedRange<Int>
    public let choosableSizes: ClosedRange<Int>? = 1...Mano.largest
    private let modulus: Int
    private let supervisesEnd: Bool

    /// Options: modulus (23), maxSize (16), supervisesEnd (false).
    public init(options: TaskOptions = TaskOptions()) throws(TaskError) {
        try options.check(only: ["modulus", "max-size", "supervises-end"], for: .mano)
        modulus = try resolve(options.modulus, default: 23, in: 2...1000, "modulus", of: .mano)
        trainingSizes = 1...(try resolve(options.maxSize, default: 16, in: 1...Self.largest, "max-size", of: .mano))
        supervisesEnd = options.supervisesEnd ?? false
        vocabulary = CommonToken.words + ["<ans>"] + Self.operators + (0..<modulus).map(String.init)
    }

    public var options: TaskOptions {
        TaskOptions(modulus: modulus, maxSize: trainingSizes.upperBound, supervisesEnd: supervisesEnd)
    }

    public func longestRow(size: Int) -> Int { 2 * size + 5 }

    /// Uniform over the training sizes.
    public func drawSize(using rng: inout CounterRNG) -> Int { rng.number(in: trainingSizes) }

    public func makeRow(size: Int, using rng: inout CounterRNG) -> Row {
        var expression: [Int] = []
        draw(operators: size, into: &expression, using: &rng)
        return row(expression)
    }

    /// Appends an expression's tokens.
    private func draw(operators: Int, into expression: inout [Int], using rng: inout CounterRNG) {
        guard operators > 0 else { return expression.append(Self.firstOperand + rng.below(modulus)) }
        expression.append(Self.firstOperator + rng.below(Self.operators.count))
        let left = rng.below(operators)
        draw(operators: left, into: &expression, using: &rng)
        draw(operators: operators - 1 - left, into: &expression, using: &rng)
    }

    /// The row of an expression given as tokens.
    func row(_ expression: [Int]) -> Row {
        let size = expression.count / 2
        let value = value(of: expression)
        var text = RowText()
        text.give(CommonToken.bos)
        for token in expression { text.give(token) }
        text.give(Self.ans)
        text.ask(Self.firstOperand + value, difficulty: size)
        if supervisesEnd { text.ask(CommonToken.eos, difficulty: size) } else { text.give(CommonToken.eos) }
        return text.row(
            .mano, size: size, meta: .mano(modulus: modulus, value: value),
            instanceHash: InstanceHash.of([modulus] + expression))
    }

    /// Read from the right, an operator finds its left side on top of the stack and its right side below.
    private func value(of expression: [Int]) -> Int {
        var stack: [Int] = []
        for token in expression.reversed() {
            if token >= Self.firstOperand {
                stack.append(token - Self.firstOperand)
            } else {
                let (left, right) = (stack.removeLast(), stack.removeLast())
                stack.append(apply(token - Self.firstOperator, left, right))
            }
        }
        precondition(stack.count == 1, "an expression in prefix notation has one value")
        return stack[0]
    }

    private func apply(_ kind: Int, _ left: Int, _ right: Int) -> Int {
        switch kind {
        case 0: (left + right) % modulus
        case 1: (left - right + modulus) % modulus
        default: left * right % modulus
        }
    }

    /// Share of rows whose value is the commonest one (0: products make it likelier than 1/23), always answered.
    public func guessBaseline(size: Int) -> Double { valueDistribution(size: size).max() ?? 0 }

    /// P(value) over all expressions of this many operators, exact but for rounding.
    public func valueDistribution(size: Int) -> [Double] {
        var known = [[Double](repeating: 1 / Double(modulus), count: modulus)]
        while known.count <= size {
            let share = 1 / Double(3 * known.count)
            var next = [Double](repeating: 0, count: modulus)
            for leftOperators in known.indices {
                let (left, right) = (known[leftOperators], known[known.count - 1 - leftOperators])
                for a in 0..<modulus {
                    for b in 0..<modulus {
                        for kind in 0..<3 { next[apply(kind, a, b)] += share * left[a] * right[b] }
                    }
                }
            }
            known.append(next)
        }
        return known[size]
    }
}
