/// How a prediction compares with a row's answer.
public struct Score: Sendable, Equatable {
    /// Whether each target was predicted, in the order of `Row.difficulty`.
    public let correct: [Bool]
    /// The whole answer is right and nothing follows it: end token included where it is a target.
    public let isExact: Bool
    /// BREVO: the looser score of the benchmark. Every prerequisite once, each after its own, then the end token.
    /// Nil for other tasks.
    public let isValidOrder: Bool?

    /// Compares token by token; missing predictions are wrong, superfluous ones only spoil `isExact`.
    public init(answer: [Int32], predicted: [Int32], isValidOrder: Bool? = nil) {
        correct = answer.indices.map { $0 < predicted.count && predicted[$0] == answer[$0] }
        isExact = predicted == answer
        self.isValidOrder = isValidOrder
    }

    /// Share of the targets that are right, 0…1.
    public var tokenShare: Double { Double(correct.count { $0 }) / Double(max(1, correct.count)) }
}
