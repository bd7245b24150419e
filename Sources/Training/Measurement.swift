import Foundation
import Model
import Tasks

/// How fast whole training steps are: forward, backward, clipping and AdamW on random rows of equal length, every token
/// a target.
public struct TrainingMeasurement: Encodable, Sendable {
    /// Tokens a second of each step.
    public let tokensPerSecond: [Double]
    /// Most memory the process had, in bytes.
    public let peakBytes: Int

    /// configuration: model, batch, micro-batch, threads, learning rate. length: tokens of a row. The first step is
    /// not counted.
    public init(_ c: TrainingConfiguration, vocabulary: Int, length: Int, steps: Int) throws {
        let model = try c.model(vocabulary: vocabulary)
        let layout = ParameterLayout(model)
        let lanes = try Lanes(
            model, weights: Initialization.weights(layout, c), count: c.threads, microBatch: c.microBatch,
            longest: length)
        let optimizer = try Optimizer(layout, c)
        let prior = DepthPrior(gamma: c.gamma, form: c.priorForm, maxDepth: c.maxDepth)
        let rows = (0..<c.batch).map { Self.row($0, c, vocabulary: vocabulary, length: length) }
        let objective = Objective(
            lambda: c.lambda, prior: prior, temperature: c.temperature, answers: c.batch * (length - 1),
            validRows: c.batch * length)
        var found: [Double] = []
        for step in 1...(steps + 1) {
            let start = ContinuousClock.now
            _ = lanes.run(rows, objective, depth: .sampled, learning: true)
            let norm = optimizer.norm(lanes.gradients)
            optimizer.update(
                lanes.weights, lanes.gradients, norm: norm, step: step, learningRate: c.learningRate)
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            if step > 1 { found.append(Double(c.batch * length) / seconds) }
        }
        tokensPerSecond = found
        peakBytes = try Self.peak()
    }

    private static func row(_ index: Int, _ c: TrainingConfiguration, vocabulary: Int, length: Int) -> Batch {
        var noise = Noise(seed: c.seed, purpose: .depths, index: UInt64(index))
        let tokens = (0..<length).map { _ in Int32(noise.uniform() * Float(vocabulary)) }
        var batch = Batch()
        batch.append(tokens: tokens, answer: [Bool](repeating: true, count: length))
        let width = c.variant == .early ? c.maxDepth : 1
        batch.noise = (0..<(length * width)).map { _ in c.variant == .early ? noise.gumbel() : noise.uniform() }
        return batch
    }

    private static func peak() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return (line.flatMap { Int($0.filter(\.isNumber)) } ?? 0) << 10
    }
}
