/// One instance of a task as the model sees it: question and answer in one sequence, without padding.
public struct Row: Sendable, Equatable {
    /// Name of the task.
    public let task: String
    /// The task's size knob: MANO operators, BREVO and DEPO nodes, LANO length of the string.
    public let size: Int
    public let tokens: [Int32]
    /// 1 where the token is a supervised target. It is predicted one position earlier, so the depth spent on the
    /// target at t is the depth of position t - 1.
    public let answerMask: [UInt8]
    /// One number a target, in order: what to group results by. MANO operators, BREVO nodes, DEPO hops k, LANO length.
    public let difficulty: [Int]
    public let meta: RowMeta
    /// Hash of the question's canonical form: equal questions have equal hashes, however they are presented.
    public let instanceHash: UInt64

    /// Positions of the targets.
    public var targets: [Int] { answerMask.indices.filter { answerMask[$0] == 1 } }

    /// The tokens at the targets: the answer.
    public var answer: [Int32] { targets.map { tokens[$0] } }
}

/// What a row is about, in the task's own terms.
public enum RowMeta: Sendable, Equatable {
    /// The expression's value, 0..<modulus.
    case mano(modulus: Int, value: Int)
    /// Edges from prerequisite to dependent as presented; the answer lists node numbers without the end token.
    case brevo(edges: [Edge], query: Int, answer: [Int])
    /// The edges of one cycle as presented.
    case depo(edges: [Edge], queries: [Hop])
    /// Natural logarithm of the derivation's probability.
    case lano(derivation: Double)
}

/// A directed edge between node numbers.
public struct Edge: Sendable, Hashable {
    public let from: Int
    public let to: Int

    public init(from: Int, to: Int) {
        self.from = from
        self.to = to
    }
}

/// A question of DEPO: which node comes `k` edges after `start`?
public struct Hop: Sendable, Hashable {
    public let start: Int
    public let k: Int
    public let answer: Int

    public init(start: Int, k: Int, answer: Int) {
        self.start = start
        self.k = k
        self.answer = answer
    }
}

/// A row's sequence while it is written.
struct RowText {
    private(set) var tokens: [Int32] = []
    private(set) var answerMask: [UInt8] = []
    private(set) var difficulty: [Int] = []

    /// Appends tokens that are given.
    mutating func give(_ ids: Int...) { ids.forEach { append($0, mask: 0) } }

    /// Appends a token the model has to predict.
    mutating func ask(_ id: Int, difficulty: Int) {
        append(id, mask: 1)
        self.difficulty.append(difficulty)
    }

    private mutating func append(_ id: Int, mask: UInt8) {
        tokens.append(Int32(id))
        answerMask.append(mask)
    }

    /// The finished row.
    func row(_ task: TaskName, size: Int, meta: RowMeta, instanceHash: UInt64) -> Row {
        Row(
            task: task.rawValue, size: size, tokens: tokens, answerMask: answerMask, difficulty: difficulty, meta: meta,
            instanceHash: instanceHash)
    }
}
