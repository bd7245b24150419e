/// LANO: strings of the language cfg3b, a context-free grammar of 16 symbols over the letters 1, 2, 3. The size of a
/// row is the length of its string, which the draw decides: 276 on average, 138…432.
///
/// Example, the start of a row:
///
///     <bos> 3 2 3 2 1 3 1 3 2 3 1 3 … <eos>
///
/// Every token after `<bos>` is a target: this is language modelling. `PrefixParser` computes what the true
/// probabilities are, and how much work parsing each token is.
public struct Lano: SequenceTask {
    static let firstTerminal = 3
    private static let ln2 = 0.693_147_180_559_945_3

    public let name = TaskName.lano
    public let vocabulary = CommonToken.words + ["1", "2", "3"]
    public let sizeUnit = "letters"
    public let trainingSizes: ClosedRange<Int>
    public let choosableSizes: ClosedRange<Int>? = nil
    public let options = TaskOptions()
    public let grammar = Grammar.cfg3b

    /// LANO has no options.
    public init(options: TaskOptions = TaskOptions()) throws(TaskError) {
        try options.check(only: [], for: .lano)
        trainingSizes = grammar.lengths
    }

    public func longestRow(size: Int) -> Int { size + 2 }

    /// 0: the grammar decides.
    public func drawSize(using rng: inout CounterRNG) -> Int { 0 }

    /// A string by the grammar's probabilities, whatever the size.
    public func makeRow(size: Int, using rng: inout CounterRNG) -> Row {
        let derivation = grammar.derive { _, rules in rng.below(rules) }
        let length = derivation.terminals.count
        var text = RowText()
        text.give(CommonToken.bos)
        for terminal in derivation.terminals { text.ask(Self.token(terminal), difficulty: length) }
        text.ask(CommonToken.eos, difficulty: length)
        return text.row(
            .lano, size: length, meta: .lano(derivation: -Double(derivation.branchings) * Self.ln2),
            instanceHash: InstanceHash.of(derivation.terminals))
    }

    /// Token id of a letter 1…3.
    public static func token(_ terminal: Int) -> Int { firstTerminal + terminal - 1 }

    /// The letter of a token id, nil for other tokens.
    public static func terminal(_ token: Int32) -> Int? {
        let terminal = Int(token) - firstTerminal + 1
        return (1...3).contains(terminal) ? terminal : nil
    }

    /// Share of right tokens of one that always says the commonest letter, whatever came before.
    public func guessBaseline(size: Int) -> Double {
        let counts = grammar.terminalCounts.values
        return (counts.max() ?? 0) / (counts.reduce(0, +) + 1)
    }
}
