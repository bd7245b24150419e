import Foundation
import Model
import Tasks

/// Initial weights: matrices normal with variance 1 / inputs, those that write into the residual stream smaller by the
/// root of twice the number of layer applications; norms 1, biases 0, the decider biased towards K.
enum Initialization {
    static func weights(_ layout: ParameterLayout, _ configuration: TrainingConfiguration) -> [Float] {
        let c = layout.configuration
        let applications = c.numPreludeLayers + c.numCoreLayers * c.maxDepth + c.numCodaLayers
        let residual = 1 / Float(2 * applications).squareRoot()
        var weights = [Float](repeating: 0, count: layout.count)
        for (index, tensor) in layout.tensors.enumerated() {
            if tensor.name.hasSuffix("norm.weight") {
                for at in tensor.range { weights[at] = 1 }
            } else if tensor.shape.count == 2 {
                let isResidual = tensor.name.hasSuffix("o_proj.weight") || tensor.name.hasSuffix("down_proj.weight")
                let isDecision = tensor.name == "decider.out.weight"
                let scale = (1 / Float(tensor.shape[1])).squareRoot() * (isResidual ? residual : isDecision ? 0.1 : 1)
                var noise = Noise(seed: configuration.seed, purpose: .weights, index: UInt64(index))
                for at in tensor.range { weights[at] = scale * noise.normal() }
            }
        }
        bias(&weights, layout, towardsMaxDepth: configuration.depthBias)
        return weights
    }

    /// Sets the decider's bias so that almost every position goes on to K at first.
    static func bias(_ weights: inout [Float], _ layout: ParameterLayout, towardsMaxDepth bias: Float) {
        for output in 0..<layout.deciderOutputs { weights[layout.deciderBias + output] = 0 }
        if layout.configuration.decider == .early {
            weights[layout.deciderBias + layout.configuration.maxDepth - 1] = bias
        } else {
            weights[layout.deciderBias] = -bias
        }
    }
}

/// Random numbers of the trainer, each named by what it is for and its index (paper 3.2: sampling).
struct Noise {
    enum Purpose: UInt32 {
        case weights = 0xF000_0000
        case depths = 0xF100_0000
    }

    private var generator: CounterRNG

    init(seed: UInt64, purpose: Purpose, index: UInt64) {
        generator = CounterRNG(seed: seed, stream: purpose.rawValue, index: index)
    }

    /// 0 < u < 1.
    mutating func uniform() -> Float { Float(min(max(generator.uniform(), 1e-7), 1 - 1e-7)) }

    /// Standard Gumbel.
    mutating func gumbel() -> Float { -logf(-logf(uniform())) }

    /// Standard normal (Box and Muller).
    mutating func normal() -> Float { (-2 * logf(uniform())).squareRoot() * cosf(2 * .pi * uniform()) }
}
