import Foundation
import Kernels

/// LayerNorm → Linear(H→J) → SiLU → Linear(J→out) + bias; J is decider_intermediate_size (model.md, "Shape").
final class Decider {
    private let normWeight: [Float]  // [H]
    private let normBias: [Float]  // [H]
    private let up: PackedMatrix  // [J, H]
    private let out: PackedMatrix  // [outputs, J]
    private let bias: [Float]  // [outputs]
    private let x = Scratch()  // [M, H]
    private let inner = Scratch()  // [M, J]
    private let logits = Scratch()  // [M, outputs]

    /// K for an early decider, 1 for an online one.
    let outputs: Int
    var weightBytes: Int { up.bytes + out.bytes }

    init(_ checkpoint: Checkpoint) throws {
        let c = checkpoint.configuration
        outputs = c.decider == .early ? c.maxDepth : 1
        normWeight = try checkpoint.floats("decider.norm.weight", c.hiddenSize)
        normBias = try checkpoint.floats("decider.norm.bias", c.hiddenSize)
        up = try checkpoint.matrix("decider.up.weight", outputs: c.deciderIntermediateSize, inputs: c.hiddenSize)
        out = try checkpoint.matrix("decider.out.weight", outputs: outputs, inputs: c.deciderIntermediateSize)
        bias = try checkpoint.floats("decider.out.bias", outputs)
    }

    /// h [M, H] → logits [M, outputs], valid until the next call.
    private func evaluate(_ h: UnsafePointer<Float>, rows m: Int) -> UnsafeMutablePointer<Float> {
        let x = x.floats(m * up.inputs)
        let inner = inner.floats(m * up.outputs)
        let logits = logits.floats(m * outputs)
        let width = Int32(up.inputs)
        anira_layernorm(h, width, normWeight, normBias, 1e-5, Int32(m), width, x, width)
        up.multiply(x, rows: m, into: inner)
        anira_silu(inner, Int32(m * up.outputs))
        out.multiply(inner, rows: m, into: logits)
        for row in 0..<m {
            for k in 0..<outputs { logits[row * outputs + k] += bias[k] }
        }
        return logits
    }

    /// Early: p(1…K) per row, [M, K]. Logits are centred by their mean before the softmax.
    func distributions(_ h: UnsafePointer<Float>, rows m: Int) -> UnsafeMutablePointer<Float> {
        let logits = evaluate(h, rows: m)
        for row in 0..<m {
            let p = logits + row * outputs
            let mean = (0..<outputs).reduce(Float(0)) { $0 + p[$1] } / Float(outputs)
            for k in 0..<outputs { p[k] -= mean }
            anira_softmax(p, Int32(outputs))
        }
        return logits
    }

    /// Online: λ = sigmoid(logit) per row, [M].
    func exitProbabilities(_ h: UnsafePointer<Float>, rows m: Int) -> UnsafeMutablePointer<Float> {
        let logits = evaluate(h, rows: m)
        for row in 0..<m { logits[row] = 1 / (1 + expf(-logits[row])) }
        return logits
    }
}
