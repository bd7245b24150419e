/// The loss: CE(answers) + λ · mean KL(p ‖ prior).
public struct Objective: Sendable {
    public var lambda: Float
    public var prior: DepthPrior
    /// τ of the Gumbel-softmax.
    public var temperature: Float
    /// Targets and valid rows of the whole step, of which a batch may be a part.
    public var answers: Int
    public var validRows: Int

    public init(lambda: Float, prior: DepthPrior, temperature: Float, answers: Int, validRows: Int) {
        (self.lambda, self.prior, self.temperature) = (lambda, prior, temperature)
        (self.answers, self.validRows) = (answers, validRows)
    }
}

/// What a pass found.
public struct PassResult: Sendable {
    /// −log p of each target, in nats, [A].
    public internal(set) var crossEntropy: [Float] = []
    /// KL(p ‖ prior) of each row, in nats, 0 where the row does not count, [R]; empty when depths are fixed.
    public internal(set) var divergence: [Float] = []
    /// Depth of each row, [R].
    public internal(set) var depths: [Int] = []
    /// Rows with a target, ascending, and the most probable token there, [A].
    public internal(set) var answerRows: [Int32] = []
    public internal(set) var predictions: [Int32] = []
    /// Exit distribution, [R, K]; empty when depths are fixed.
    public internal(set) var exitDistribution: [Float] = []
}

extension PassResult {
    /// The results of a batch's sequences, one by one; rows are counted from each sequence's start.
    func split(_ batch: Batch) -> [PassResult] {
        var answer = 0
        return (0..<batch.sequences).map { sequence in
            let (start, end) = (batch.starts[sequence], batch.starts[sequence + 1])
            var one = PassResult()
            one.depths = Array(depths[start..<end])
            if !divergence.isEmpty {
                one.divergence = Array(divergence[start..<end])
                let k = exitDistribution.count / batch.rows
                one.exitDistribution = Array(exitDistribution[(start * k)..<(end * k)])
            }
            while answer < answerRows.count, Int(answerRows[answer]) < end {
                one.answerRows.append(answerRows[answer] - Int32(start))
                one.predictions.append(predictions[answer])
                one.crossEntropy.append(crossEntropy[answer])
                answer += 1
            }
            return one
        }
    }
}

extension Objective {
    /// The regulariser's share of one row.
    func weight(_ valid: Bool) -> Float { valid ? lambda / Float(max(validRows, 1)) : 0 }
}
