import Foundation
import Kernels

/// How the next token is drawn from logits. The draw depends on (seed, position) only, so that a replay after a
/// crash draws the same token.
public struct SamplingRule: Sendable, Equatable {
    /// 0: greedy, the first maximum.
    public var temperature: Float = 0
    /// 0: all.
    public var topK = 0
    /// 1: all.
    public var topP: Float = 1
    public var seed: UInt64 = 0

    public init(temperature: Float = 0, topK: Int = 0, topP: Float = 1, seed: UInt64 = 0) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.seed = seed
    }

    /// The token after `position`, and its log-probability under the unscaled model distribution.
    public func draw(_ logits: UnsafeBufferPointer<Float>, position: Int) -> (token: Int32, logprob: Float) {
        let count = Int32(logits.count)
        let total = anira_logsumexp(logits.baseAddress, count)
        let token = temperature == 0 ? Int(anira_argmax(logits.baseAddress, count)) : sample(logits, position)
        return (Int32(token), logits[token] - total)
    }

    private func sample(_ logits: UnsafeBufferPointer<Float>, _ position: Int) -> Int {
        // Largest first, ties by id: the order, and so the draw, is the same everywhere.
        var order = logits.indices.sorted { (logits[$0], $1) > (logits[$1], $0) }
        if topK > 0 { order = Array(order.prefix(topK)) }
        var weights = order.map { (logits[$0] - logits[order[0]]) / temperature }
        weights.withUnsafeMutableBufferPointer { anira_softmax($0.baseAddress, Int32($0.count)) }
        let kept = nucleus(weights)
        let mass = weights[..<kept].reduce(0, +)
        let target = uniform(position) * mass
        var sum: Float = 0
        for index in 0..<kept {
            sum += weights[index]
            if target < sum { return order[index] }
        }
        return order[kept - 1]
    }

    /// How many of the largest weights reach top_p.
    private func nucleus(_ weights: [Float]) -> Int {
        guard topP < 1 else { return weights.count }
        var sum: Float = 0
        for (index, weight) in weights.enumerated() {
            sum += weight
            if sum >= topP { return index + 1 }
        }
        return weights.count
    }

    /// A number in 0..<1 from (seed, position).
    private func uniform(_ position: Int) -> Float {
        var generator = SplitMix64(state: seed, drawn: position)
        return Float(generator.next() >> 40) / Float(1 << 24)
    }
}
