import Kernels
import Model

// The derivative of the forward pass, from the loss back to the embedding.
//
// Letters: R rows, A rows that predict an answer, H hidden size, K most iterations, V vocabulary.

extension Network {
    func backward(_ f: Forward, _ objective: Objective, sampled: Bool) {
        let r = f.batch.rows
        let dState = finishBackward(f, objective)
        var dz = UnsafeMutablePointer<Float>?.none
        if sampled { dz = arena.takeZeros(r * k) }
        let later = arena.takeZeros(r)
        for t in stride(from: k, through: 1, by: -1) {
            if sampled, f.online != nil { onlineBackward(f, objective, t, dz!, later, addingTo: dState) }
            iterationBackward(f, t, dz, dState)
        }
        if sampled, let early = f.early { earlyBackward(f, early, objective, dz!, addingTo: dState) }
        preludeBackward(f, dState)
    }

    /// Loss, head, norm and coda. Returns the gradient of the exit states, [R, H].
    private func finishBackward(_ f: Forward, _ objective: Objective) -> UnsafeMutablePointer<Float> {
        let (r, a, v) = (f.batch.rows, f.answers.count, configuration.vocabSize)
        let dState = arena.takeZeros(r * h)
        arena.scratch {
            let part = 1 / Float(max(objective.answers, 1))
            for index in 0..<(a * v) { f.dLogits[index] *= part }
            Products.addWeightGradient(f.dLogits, f.normed, m: a, n: v, k: h, into: gradients + layout.head)
            let (dNormed, dOutput) = (arena.take(a * h), arena.takeZeros(r * h))
            Products.inputGradient(f.dLogits, weights + layout.head, m: a, n: v, k: h, into: dNormed)
            anira_rmsnorm_backward(
                f.coda.last!.output, weights + layout.norm, dNormed, configuration.rmsNormEps, Int32(a), Int32(h),
                dOutput, gradients + layout.norm)
            for (index, place) in layout.coda.enumerated().reversed() {
                let selection = f.coda[index].selection
                layer.backward(place, f.coda[index], f.batch, dy: dOutput, of: selection, into: dState)
                dOutput.update(from: dState, count: r * h)
            }
        }
        return dState
    }

    /// hᵗ = m Core(hᵗ⁻¹) + (1 − m) hᵗ⁻¹. dState: gradient of hᵗ, becomes that of hᵗ⁻¹. m_t = 1 − Σ_{s<t} z_s, so the
    /// gradient of m_t is taken from every z_s before t.
    private func iterationBackward(
        _ f: Forward, _ t: Int, _ dz: UnsafeMutablePointer<Float>?, _ dState: UnsafeMutablePointer<Float>
    ) {
        let r = f.batch.rows
        let tapes = f.core[t - 1]
        if let dz, t > 1 {
            for row in 0..<r {
                let at = row * h
                let dm = anira_dot_difference(
                    dState + at, tapes.last!.output + at, f.states[t - 1] + at, Int32(h))
                for s in 0..<(t - 1) { dz[row * k + s] -= dm }
            }
        }
        let active = Selection(f.batch) { f.isActive($0, t) }
        guard active.count > 0 else { return }
        arena.scratch {
            let (dy, dx) = (arena.take(r * h), arena.take(r * h))
            active.gather(dState, width: h, into: dy)
            for (index, place) in layout.core.enumerated().reversed() {
                let isLast = index == layout.core.count - 1
                layer.backward(place, tapes[index], f.batch, dy: dy, of: isLast ? active : f.everyRow, into: dx)
                if index > 0 { dy.update(from: dx, count: r * h) }
            }
            for row in active.rows { (dState + Int(row) * h).update(repeating: 0, count: h) }
            anira_add(dx, Int32(r * h), dState)
        }
    }

    private func earlyBackward(
        _ f: Forward, _ early: EarlyExits, _ objective: Objective, _ dz: UnsafePointer<Float>,
        addingTo dState: UnsafeMutablePointer<Float>
    ) {
        arena.scratch {
            let dLogits = arena.take(f.batch.rows * k)
            for row in 0..<f.batch.rows {
                early.backward(
                    row, dz: dz + row * k, prior: objective.prior, weight: objective.weight(f.batch.valid[row]),
                    temperature: objective.temperature, into: dLogits + row * k)
            }
            decider.backward(f.deciders[0], dLogits: dLogits, rows: f.batch.rows, addingTo: dState)
        }
    }

    /// The decider after iteration t < K. Every dz of t and later is complete by now.
    private func onlineBackward(
        _ f: Forward, _ objective: Objective, _ t: Int, _ dz: UnsafePointer<Float>,
        _ later: UnsafeMutablePointer<Float>, addingTo dState: UnsafeMutablePointer<Float>
    ) {
        let online = f.online!
        arena.scratch {
            let dLogits = arena.take(f.batch.rows)
            for row in 0..<f.batch.rows {
                let at = row * k + t - 1
                let pull = objective.prior.slope(online.p[at], at: t - 1) * objective.weight(f.batch.valid[row])
                if t == k {
                    later[row] = dz[at] + pull
                } else {
                    dLogits[row] = online.backward(row, iteration: t, dp: dz[at] + pull, later: &later[row])
                }
            }
            guard t < k else { return }
            decider.backward(f.deciders[t - 1], dLogits: dLogits, rows: f.batch.rows, addingTo: dState)
        }
    }

    private func preludeBackward(_ f: Forward, _ dState: UnsafeMutablePointer<Float>) {
        let r = f.batch.rows
        arena.scratch {
            let dx = arena.take(r * h)
            for (index, place) in layout.prelude.enumerated().reversed() {
                layer.backward(place, f.prelude[index], f.batch, dy: dState, of: f.everyRow, into: dx)
                dState.update(from: dx, count: r * h)
            }
        }
        for (row, token) in f.batch.tokens.enumerated() {
            anira_add(dState + row * h, Int32(h), gradients + layout.embedding + Int(token) * h)
        }
    }
}
