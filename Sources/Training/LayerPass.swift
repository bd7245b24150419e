import Kernels
import Model

// One Llama layer over a batch, forward and backward (model.md, "Shape").
//
// Letters: R rows of the batch, A selected rows, H hidden size, I intermediate size, W = KV heads × D.

/// What the derivative of a layer needs of its forward pass.
struct LayerTape {
    let selection: Selection
    let x: UnsafeMutablePointer<Float>  // [R, H] input
    let normed: UnsafeMutablePointer<Float>  // [R, H]
    let kv: UnsafeMutablePointer<Float>  // [R, 2W]
    let query: UnsafeMutablePointer<Float>  // [A, H]
    let logSums: UnsafeMutablePointer<Float>  // [A, heads]
    let attended: UnsafeMutablePointer<Float>  // [A, H]
    let middle: UnsafeMutablePointer<Float>  // [A, H] after the first residual
    let middleNormed: UnsafeMutablePointer<Float>  // [A, H]
    let gateUp: UnsafeMutablePointer<Float>  // [A, 2I]
    let output: UnsafeMutablePointer<Float>  // [A, H]
}

/// A layer of some part, at given weights. Stateless: tapes live in the arena.
struct LayerPass {
    let configuration: ModelConfiguration
    let rope: RotaryTable
    let arena: Arena
    let weights: UnsafePointer<Float>
    let gradients: UnsafeMutablePointer<Float>

    private var h: Int { configuration.hiddenSize }
    private var i: Int { configuration.intermediateSize }
    private var w: Int { configuration.keyValueSize }
    private var heads: Int { configuration.numAttentionHeads }
    private var scale: Float { 1 / Float(configuration.headSize).squareRoot() }

    /// Floats of tape for one row, rounding apart.
    static func floatsPerRow(_ c: ModelConfiguration) -> Int {
        7 * c.hiddenSize + 2 * c.keyValueSize + 2 * c.intermediateSize + c.numAttentionHeads
    }

    /// Floats of scratch that forward and backward need at most, for R rows whose longest sequence has T positions.
    static func scratchFloats(_ c: ModelConfiguration, rows: Int, longest: Int) -> Int {
        rows * (14 * c.hiddenSize + 6 * c.keyValueSize + 6 * c.intermediateSize + c.numAttentionHeads + 16)
            + anira_sequence_scratch(Int32(longest), Int32(longest), Int32(c.headSize)) + 4096
    }

    /// x [R, H] → output [A, H] of the selected rows; the keys and values of all rows take part.
    func forward(_ layer: ParameterLayout.Layer, _ x: UnsafeMutablePointer<Float>, _ batch: Batch, _ wanted: Selection)
        -> LayerTape
    {
        let (r, a) = (batch.rows, wanted.count)
        let tape = LayerTape(
            selection: wanted, x: x, normed: arena.take(r * h), kv: arena.take(r * 2 * w), query: arena.take(a * h),
            logSums: arena.take(a * heads), attended: arena.take(a * h), middle: arena.take(a * h),
            middleNormed: arena.take(a * h), gateUp: arena.take(a * 2 * i), output: arena.take(a * h))
        norm(x, layer.inputNorm, r, into: tape.normed)
        Products.forward(tape.normed, weights + layer.wkv, m: r, n: 2 * w, k: h, into: tape.kv)
        rotate(tape.kv, width: 2 * w, heads: configuration.numKeyValueHeads, batch)
        arena.scratch {
            let normed = selected(tape.normed, width: h, by: wanted)
            Products.forward(normed, weights + layer.wq, m: a, n: h, k: h, into: tape.query)
        }
        rotate(tape.query, wanted)
        attend(tape, batch)
        if wanted.isAll {
            tape.middle.update(from: x, count: r * h)
        } else {
            wanted.gather(x, width: h, into: tape.middle)
        }
        Products.forward(tape.attended, weights + layer.wo, m: a, n: h, k: h, into: tape.middle, adding: true)
        norm(tape.middle, layer.postNorm, a, into: tape.middleNormed)
        Products.forward(tape.middleNormed, weights + layer.gateUp, m: a, n: 2 * i, k: h, into: tape.gateUp)
        arena.scratch {
            let inner = arena.take(a * i)
            anira_swiglu(tape.gateUp, Int32(a), Int32(i), inner)
            tape.output.update(from: tape.middle, count: a * h)
            Products.forward(inner, weights + layer.down, m: a, n: h, k: i, into: tape.output, adding: true)
        }
        return tape
    }

    /// dy [B, H] of the rows `active` → dx [R, H], written; weight gradients are added to. `active` is the tape's own
    /// selection, or any part of it when the tape has all rows: rows outside have no gradient at the output.
    func backward(
        _ layer: ParameterLayout.Layer, _ tape: LayerTape, _ batch: Batch, dy: UnsafePointer<Float>,
        of active: Selection, into dx: UnsafeMutablePointer<Float>
    ) {
        let (r, b) = (batch.rows, active.count)
        precondition(tape.selection.isAll || b == tape.selection.count)
        let part: Selection? = tape.selection.count == b ? nil : active
        arena.scratch {
            let middle = arena.take(b * h)  // gradient after the first residual
            feedForwardBackward(layer, tape, part, dy: dy, rows: b, into: middle)
            let normed = arena.takeZeros(r * h)  // gradient of the normed input
            arena.scratch { attentionBackward(layer, tape, part, batch, active, dMiddle: middle, into: normed) }
            dx.update(repeating: 0, count: r * h)
            active.scatter(middle, width: h, into: dx)
            anira_rmsnorm_backward(
                tape.x, weights + layer.inputNorm, normed, configuration.rmsNormEps, Int32(r), Int32(h), dx,
                gradients + layer.inputNorm)
        }
    }

    private func feedForwardBackward(
        _ layer: ParameterLayout.Layer, _ tape: LayerTape, _ part: Selection?, dy: UnsafePointer<Float>, rows b: Int,
        into dMiddle: UnsafeMutablePointer<Float>
    ) {
        arena.scratch {
            let (dInner, inner, dGateUp) = (arena.take(b * i), arena.take(b * i), arena.take(b * 2 * i))
            Products.inputGradient(dy, weights + layer.down, m: b, n: h, k: i, into: dInner)
            let gateUp = selected(tape.gateUp, width: 2 * i, by: part)
            anira_swiglu_backward(gateUp, dInner, Int32(b), Int32(i), inner, dGateUp)
            Products.addWeightGradient(dy, inner, m: b, n: h, k: i, into: gradients + layer.down)
            let normed = selected(tape.middleNormed, width: h, by: part)
            Products.addWeightGradient(dGateUp, normed, m: b, n: 2 * i, k: h, into: gradients + layer.gateUp)
            let dNormed = arena.take(b * h)
            Products.inputGradient(dGateUp, weights + layer.gateUp, m: b, n: 2 * i, k: h, into: dNormed)
            dMiddle.update(from: dy, count: b * h)
            anira_rmsnorm_backward(
                selected(tape.middle, width: h, by: part), weights + layer.postNorm, dNormed,
                configuration.rmsNormEps, Int32(b), Int32(h), dMiddle, gradients + layer.postNorm)
        }
    }

    /// Adds the gradient of the normed input of all rows to dNormed [R, H].
    private func attentionBackward(
        _ layer: ParameterLayout.Layer, _ tape: LayerTape, _ part: Selection?, _ batch: Batch, _ active: Selection,
        dMiddle: UnsafePointer<Float>, into dNormed: UnsafeMutablePointer<Float>
    ) {
        let (r, b) = (batch.rows, active.count)
        let attended = selected(tape.attended, width: h, by: part)
        Products.addWeightGradient(dMiddle, attended, m: b, n: h, k: h, into: gradients + layer.wo)
        let (dAttended, dQuery, dKV) = (arena.take(b * h), arena.take(b * h), arena.take(r * 2 * w))
        Products.inputGradient(dMiddle, weights + layer.wo, m: b, n: h, k: h, into: dAttended)
        attendBackward(tape, part, batch, active, dAttended, dQuery: dQuery, dKV: dKV)
        rotate(dQuery, active, back: true)
        rotate(dKV, width: 2 * w, heads: configuration.numKeyValueHeads, batch, back: true)
        let normed = selected(tape.normed, width: h, by: active)
        Products.addWeightGradient(dQuery, normed, m: b, n: h, k: h, into: gradients + layer.wq)
        Products.addWeightGradient(dKV, tape.normed, m: r, n: 2 * w, k: h, into: gradients + layer.wkv)
        Products.inputGradient(dKV, weights + layer.wkv, m: r, n: 2 * w, k: h, into: dNormed)
        let fromQuery = arena.take(b * h)
        Products.inputGradient(dQuery, weights + layer.wq, m: b, n: h, k: h, into: fromQuery)
        for (index, row) in active.rows.enumerated() {
            anira_add(fromQuery + index * h, Int32(h), dNormed + Int(row) * h)
        }
    }

    // MARK: Attention, sequence by sequence

    private func attend(_ tape: LayerTape, _ batch: Batch) {
        let c = configuration
        eachSequence(batch, tape.selection) { sequence, positions, queries, scratch in
            let first = tape.selection.starts[sequence]
            anira_sequence_attention(
                tape.query + first * h, Int32(h), positions, Int32(queries),
                tape.kv + batch.starts[sequence] * 2 * w, Int32(batch.starts[sequence + 1] - batch.starts[sequence]),
                Int32(heads), Int32(c.numKeyValueHeads), Int32(c.headSize), scale, scratch,
                tape.attended + first * h, Int32(h), tape.logSums + first * heads)
        }
    }

    private func attendBackward(
        _ tape: LayerTape, _ part: Selection?, _ batch: Batch, _ active: Selection, _ dAttended: UnsafePointer<Float>,
        dQuery: UnsafeMutablePointer<Float>, dKV: UnsafeMutablePointer<Float>
    ) {
        let c = configuration
        let query = selected(tape.query, width: h, by: part)
        let logSums = selected(tape.logSums, width: heads, by: part)
        for sequence in 0..<batch.sequences where active.starts[sequence] == active.starts[sequence + 1] {
            let rows = batch.starts[sequence]..<batch.starts[sequence + 1]
            (dKV + rows.lowerBound * 2 * w).update(repeating: 0, count: rows.count * 2 * w)
        }
        eachSequence(batch, active) { sequence, positions, queries, scratch in
            let first = active.starts[sequence]
            anira_sequence_attention_backward(
                query + first * h, Int32(h), positions, Int32(queries), tape.kv + batch.starts[sequence] * 2 * w,
                Int32(batch.starts[sequence + 1] - batch.starts[sequence]), Int32(heads), Int32(c.numKeyValueHeads),
                Int32(c.headSize), scale, scratch, logSums + first * heads, dAttended + first * h, Int32(h),
                dQuery + first * h, dKV + batch.starts[sequence] * 2 * w)
        }
    }

    /// Calls body for every sequence with a selected row: its index, their positions and number, scratch.
    private func eachSequence(
        _ batch: Batch, _ selection: Selection,
        _ body: (Int, UnsafePointer<Int32>, Int, UnsafeMutablePointer<Float>) -> Void
    ) {
        let longest = (0..<batch.sequences).reduce(0) { max($0, batch.starts[$1 + 1] - batch.starts[$1]) }
        arena.scratch {
            let scratch = arena.take(
                anira_sequence_scratch(Int32(longest), Int32(longest), Int32(configuration.headSize)))
            selection.positions.withUnsafeBufferPointer { positions in
                for sequence in 0..<batch.sequences {
                    let (first, end) = (selection.starts[sequence], selection.starts[sequence + 1])
                    if first < end { body(sequence, positions.baseAddress! + first, end - first, scratch) }
                }
            }
        }
    }

    // MARK: Rows

    /// x itself without a selection, else a copy of the selected rows.
    private func selected(_ x: UnsafeMutablePointer<Float>, width: Int, by part: Selection?)
        -> UnsafeMutablePointer<Float>
    {
        guard let part, !part.isAll else { return x }
        let copy = arena.take(part.count * width)
        part.gather(x, width: width, into: copy)
        return copy
    }

    private func norm(_ x: UnsafePointer<Float>, _ weight: Int, _ m: Int, into y: UnsafeMutablePointer<Float>) {
        anira_rmsnorm(x, Int32(h), weights + weight, configuration.rmsNormEps, Int32(m), Int32(h), y, Int32(h))
    }

    private func rotate(
        _ x: UnsafeMutablePointer<Float>, width: Int, heads: Int, _ batch: Batch, back: Bool = false
    ) {
        for sequence in 0..<batch.sequences {
            let start = batch.starts[sequence]
            for row in start..<batch.starts[sequence + 1] {
                rope.rotate(x + row * width, heads: heads, position: row - start, back: back)
            }
        }
    }

    private func rotate(_ x: UnsafeMutablePointer<Float>, _ selection: Selection, back: Bool = false) {
        for (index, position) in selection.positions.enumerated() {
            rope.rotate(x + index * h, heads: heads, position: Int(position), back: back)
        }
    }
}
