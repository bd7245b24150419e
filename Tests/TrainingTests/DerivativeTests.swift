import Foundation
import Model
import Tasks
import Testing

@testable import Training

/// The hand-derived gradient against finite differences of the loss, for every kind of parameter. Depths are drawn
/// once: straight-through gradients of the choice itself are no derivative of the loss, so the regulariser, whose
/// gradient is exact, is checked alone with cross-entropy off, and cross-entropy at fixed depths.
@Suite struct DerivativeTests {
    static let shapes: [(ModelConfiguration.DeciderKind, Int, (Int, Int, Int), Bool)] = [
        (.early, 1, (1, 1, 1), false), (.online, 2, (2, 1, 2), false), (.early, 2, (1, 1, 1), true),
        (.online, 1, (1, 2, 1), false),
    ]

    @Test(arguments: 0..<4) func `cross-entropy at a fixed depth`(_ index: Int) throws {
        let (decider, heads, layers, tied) = Self.shapes[index]
        try check(
            try tinyModel(decider, keyValueHeads: heads, layers: layers, tied: tied), depth: .fixed(2),
            loss: { $0.reduce(0) { $0 + $1.crossEntropy.reduce(0) { $0 + Double($1) } } / 5 }, lambda: 0)
    }

    @Test(arguments: 0..<4) func `the regulariser's own gradient`(_ index: Int) throws {
        let (decider, heads, layers, tied) = Self.shapes[index]
        let scale = 3.0
        try check(
            try tinyModel(decider, keyValueHeads: heads, layers: layers, tied: tied), depth: .sampled,
            loss: { scale * $0.reduce(0) { $0 + $1.divergence.reduce(0) { $0 + Double($1) } } / 12 },
            lambda: Float(scale), answers: false)
    }

    /// Two sequences of 5 and 7 tokens with 5 targets.
    private func batches(_ c: ModelConfiguration, answers: Bool) -> [Batch] {
        let rows: [([Int32], [Int])] = [([1, 4, 2, 6, 3], [2, 4]), ([5, 0, 3, 3, 1, 2, 4], [1, 5, 6])]
        return rows.enumerated().map { index, row in
            var batch = Batch()
            batch.append(tokens: row.0, answer: row.0.indices.map { answers && row.1.contains($0) })
            var noise = Noise(seed: 3, purpose: .depths, index: UInt64(index))
            let width = c.decider == .early ? c.maxDepth : 1
            batch.noise = (0..<(row.0.count * width)).map { _ in width > 1 ? noise.gumbel() : noise.uniform() }
            return batch
        }
    }

    private func check(
        _ c: ModelConfiguration, depth: DepthChoice, loss: ([PassResult]) -> Double, lambda: Float,
        answers: Bool = true
    ) throws {
        let layout = ParameterLayout(c)
        var noise = Noise(seed: 1, purpose: .weights, index: 0)
        let weights = (0..<layout.count).map { _ in 0.6 * noise.normal() }
        let lanes = try Lanes(c, weights: weights, count: 1, microBatch: 64, longest: 16)
        let objective = Objective(
            lambda: lambda, prior: DepthPrior(gamma: 1.7, form: .ratio, maxDepth: c.maxDepth), temperature: 1,
            answers: 5, validRows: 12)
        let batches = batches(c, answers: answers)
        let depths = lanes.run(batches, objective, depth: depth, learning: true).map(\.depths)
        let gradients = (0..<layout.count).map { Double(lanes.gradients[$0]) }
        for tensor in layout.tensors {
            for place in [0, tensor.range.count / 2, tensor.range.count - 1] {
                let at = tensor.range.lowerBound + place
                var found: [Double] = []
                for step: Float in [4e-3, -4e-3] {
                    lanes.weights[at] = weights[at] + step
                    let results = lanes.run(batches, objective, depth: depth, learning: false)
                    try #require(results.map(\.depths) == depths, "a step changed a depth; choose another seed")
                    found.append(loss(results))
                }
                lanes.weights[at] = weights[at]
                let slope = (found[0] - found[1]) / 8e-3
                #expect(abs(slope - gradients[at]) < 2e-3 + 0.02 * abs(slope), "\(tensor.name)[\(place)]")
            }
        }
    }
}
