import Foundation

/// What one step found, over all its rows.
struct StepSummary {
    /// Means: nats an answer token, nats a position, share of right answer tokens, depth of a position.
    let crossEntropy, divergence, accuracy, meanDepth: Double
    let loss: Double
    let tokens: Int
    let lambda: Float

    init(_ sequences: [Batch], _ results: [PassResult], _ objective: Objective) {
        var (crossEntropy, divergence, right, depth, tokens) = (0.0, 0.0, 0, 0, 0)
        for (sequence, result) in zip(sequences, results) {
            for value in result.crossEntropy { crossEntropy += Double(value) }
            for value in result.divergence { divergence += Double(value) }
            depth += result.depths.reduce(0, +)
            tokens += sequence.rows
            for (row, prediction) in zip(result.answerRows, result.predictions)
            where sequence.targets[Int(row)] == prediction { right += 1 }
        }
        self.crossEntropy = crossEntropy / Double(max(objective.answers, 1))
        self.divergence = divergence / Double(max(objective.validRows, 1))
        loss = self.crossEntropy + Double(objective.lambda) * self.divergence
        accuracy = Double(right) / Double(max(objective.answers, 1))
        meanDepth = Double(depth) / Double(max(tokens, 1))
        self.tokens = tokens
        lambda = objective.lambda
    }
}

/// Steps since the last record.
struct Sums {
    private var steps = 0
    private var crossEntropy = 0.0
    private var divergence = 0.0
    private var loss = 0.0
    private var accuracy = 0.0
    private var meanDepth = 0.0
    private var norm = 0.0
    private var tokens = 0
    private var lambda: Float = 0
    private let start = Date()

    mutating func add(_ step: StepSummary, norm found: Double) {
        steps += 1
        crossEntropy += step.crossEntropy
        divergence += step.divergence
        loss += step.loss
        accuracy += step.accuracy
        meanDepth += step.meanDepth
        norm += found
        tokens += step.tokens
        lambda = step.lambda
    }

    func record(_ step: Int, rate: Float) -> MetricsRecord {
        let count = Double(max(steps, 1))
        return MetricsRecord(
            step: step, crossEntropy: crossEntropy / count, divergence: divergence / count, loss: loss / count,
            lambda: lambda, learningRate: rate, gradientNorm: norm / count,
            tokensPerSecond: Double(tokens) / max(Date().timeIntervalSince(start), 1e-9), accuracy: accuracy / count,
            meanDepth: meanDepth / count)
    }
}
