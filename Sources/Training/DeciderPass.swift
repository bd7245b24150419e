import Kernels
import Model

/// What the derivative of the decider needs of one forward pass.
struct DeciderTape {
    let x: UnsafeMutablePointer<Float>  // [R, H]
    let normed: UnsafeMutablePointer<Float>  // [R, H]
    let up: UnsafeMutablePointer<Float>  // [R, J], before SiLU
    let logits: UnsafeMutablePointer<Float>  // [R, outputs]
}

/// LayerNorm → Linear → SiLU → Linear + bias, forward and backward (model.md, "Shape").
struct DeciderPass {
    let layout: ParameterLayout
    let arena: Arena
    let weights: UnsafePointer<Float>
    let gradients: UnsafeMutablePointer<Float>

    private var h: Int { layout.configuration.hiddenSize }
    private var j: Int { layout.configuration.deciderIntermediateSize }
    private var outputs: Int { layout.deciderOutputs }
    private static let eps: Float = 1e-5

    static func floatsPerRow(_ c: ModelConfiguration) -> Int {
        c.hiddenSize + c.deciderIntermediateSize + (c.decider == .early ? c.maxDepth : 1)
    }

    func forward(_ x: UnsafeMutablePointer<Float>, rows r: Int) -> DeciderTape {
        let tape = DeciderTape(
            x: x, normed: arena.take(r * h), up: arena.take(r * j), logits: arena.take(r * outputs))
        let width = Int32(h)
        anira_layernorm(
            x, width, weights + layout.deciderNorm, weights + layout.deciderNormBias, Self.eps, Int32(r), width,
            tape.normed, width)
        Products.forward(tape.normed, weights + layout.deciderUp, m: r, n: j, k: h, into: tape.up)
        for row in 0..<r {
            (tape.logits + row * outputs).update(from: weights + layout.deciderBias, count: outputs)
        }
        arena.scratch {
            let inner = arena.take(r * j)
            inner.update(from: tape.up, count: r * j)
            anira_silu(inner, Int32(r * j))
            Products.forward(
                inner, weights + layout.deciderOut, m: r, n: outputs, k: j, into: tape.logits, adding: true)
        }
        return tape
    }

    /// dLogits [R, outputs]; adds to dx [R, H] and to the weight gradients.
    func backward(
        _ tape: DeciderTape, dLogits: UnsafePointer<Float>, rows r: Int, addingTo dx: UnsafeMutablePointer<Float>
    ) {
        arena.scratch {
            let (inner, dInner, dNormed) = (arena.take(r * j), arena.take(r * j), arena.take(r * h))
            inner.update(from: tape.up, count: r * j)
            anira_silu(inner, Int32(r * j))
            Products.addWeightGradient(
                dLogits, inner, m: r, n: outputs, k: j, into: gradients + layout.deciderOut)
            for row in 0..<r { anira_add(dLogits + row * outputs, Int32(outputs), gradients + layout.deciderBias) }
            Products.inputGradient(dLogits, weights + layout.deciderOut, m: r, n: outputs, k: j, into: dInner)
            anira_silu_backward(tape.up, dInner, Int32(r * j), dInner)
            Products.addWeightGradient(dInner, tape.normed, m: r, n: j, k: h, into: gradients + layout.deciderUp)
            Products.inputGradient(dInner, weights + layout.deciderUp, m: r, n: j, k: h, into: dNormed)
            anira_layernorm_backward(
                tape.x, weights + layout.deciderNorm, dNormed, Self.eps, Int32(r), Int32(h), dx,
                gradients + layout.deciderNorm, gradients + layout.deciderNormBias)
        }
    }
}
