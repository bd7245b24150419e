/// A source of instances with a difficulty knob, and their scorer. Values of a task are immutable and hold no rows.
///
/// (Named so because `Task` is Swift's unit of concurrency.)
public protocol SequenceTask: Sendable {
    var name: TaskName { get }
    /// Every option with its value: what has to be stored to make the same task again.
    var options: TaskOptions { get }
    /// Words by token id, none with white space in it. 0 `<pad>`, 1 `<bos>`, 2 `<eos>` in every task.
    var vocabulary: [String] { get }
    /// What a size counts, in the plural.
    var sizeUnit: String { get }
    /// Sizes that training rows have.
    var trainingSizes: ClosedRange<Int> { get }
    /// Sizes a row can be asked for; nil where the size is an outcome of the draw.
    var choosableSizes: ClosedRange<Int>? { get }

    /// Most tokens a row of this size has.
    func longestRow(size: Int) -> Int
    /// A size by the law of the training rows; 0 where the size is an outcome of the draw.
    func drawSize(using rng: inout CounterRNG) -> Int
    /// An instance of this size, drawn from all there are: splits are `Dataset`'s business.
    func makeRow(size: Int, using rng: inout CounterRNG) -> Row
    /// Compares greedy predictions at the row's targets, in their order, with its answer.
    func score(_ row: Row, predicted: [Int32]) -> Score
    /// What a guess gets without reading how the question's tokens are arranged: expected share of right answers.
    /// The task's documentation says which guess.
    func guessBaseline(size: Int) -> Double
}

extension SequenceTask {
    /// Most tokens a training row has: what a model's context must hold.
    public var longestRow: Int { longestRow(size: trainingSizes.upperBound) }

    public func score(_ row: Row, predicted: [Int32]) -> Score { Score(answer: row.answer, predicted: predicted) }

    /// One word a token, separated by single spaces.
    public func text(of tokens: some Sequence<Int32>) -> String {
        tokens.map { vocabulary[Int($0)] }.joined(separator: " ")
    }

    /// The token ids of a text; throws at the first word that is not in the vocabulary.
    public func tokens(of text: String) throws(TaskError) -> [Int32] {
        let ids = Dictionary(uniqueKeysWithValues: vocabulary.enumerated().map { ($1, Int32($0)) })
        var tokens: [Int32] = []
        for word in text.split(whereSeparator: \.isWhitespace) {
            guard let id = ids[String(word)] else {
                throw TaskError(.word, "'\(word)' is not a word of \(name.rawValue)")
            }
            tokens.append(id)
        }
        return tokens
    }

    /// Throws unless rows of this size can be asked for.
    public func check(size: Int) throws(TaskError) {
        guard let sizes = choosableSizes else {
            throw TaskError(
                .size,
                "a size cannot be chosen for \(name.rawValue), the draw decides over the \(sizeUnit): leave it out")
        }
        guard sizes.contains(size) else {
            throw TaskError(
                .size,
                "size \(size) is outside what \(name.rawValue) can make: "
                    + "\(sizes.lowerBound)…\(sizes.upperBound) \(sizeUnit)")
        }
    }
}

/// Token ids that all tasks share.
enum CommonToken {
    static let pad = 0
    static let bos = 1
    static let eos = 2
    /// Their words, by id.
    static let words = ["<pad>", "<bos>", "<eos>"]
}
