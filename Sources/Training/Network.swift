import Kernels
import Model

// The whole model over a batch, all K iterations unrolled, and its derivative (training.md, "The objective").
//
// A frozen row keeps presenting its frozen state to attention, so every iteration computes all rows; backwards only the
// rows that took an iteration carry a gradient through it, the others only the derivative of their choice to leave.
//
// Letters: R rows, A rows that predict an answer, H hidden size, K most iterations, V vocabulary.

/// A lane's copy of the model's working memory. Weights are shared and only read; gradients are its own.
final class Network {
    let layout: ParameterLayout
    let gradients: UnsafeMutablePointer<Float>
    let configuration: ModelConfiguration
    let weights: UnsafePointer<Float>
    let arena: Arena
    let layer: LayerPass
    let decider: DeciderPass

    /// capacity: most rows of a batch; longest: most positions of a sequence.
    init(
        _ layout: ParameterLayout, weights: UnsafePointer<Float>, rope: RotaryTable, capacity: Int, longest: Int
    ) throws {
        self.layout = layout
        self.weights = weights
        configuration = layout.configuration
        arena = try Arena(floats: Self.floatsNeeded(layout.configuration, rows: capacity, longest: longest))
        guard let gradients = anira_allocate(layout.count) else {
            throw TrainingError.noMemory(layout.count * 4, for: "gradients; take fewer threads or a smaller model")
        }
        self.gradients = gradients
        layer = LayerPass(
            configuration: configuration, rope: rope, arena: arena, weights: weights, gradients: gradients)
        decider = DeciderPass(layout: layout, arena: arena, weights: weights, gradients: gradients)
    }

    deinit { anira_release(gradients, layout.count) }

    /// Floats of activations for a batch of so many rows.
    static func floatsNeeded(_ c: ModelConfiguration, rows: Int, longest: Int) -> Int {
        let (h, k) = (c.hiddenSize, c.maxDepth)
        let layers = c.numPreludeLayers + k * c.numCoreLayers + c.numCodaLayers
        let deciders = c.decider == .early ? 1 : k
        let perRow =
            layers * LayerPass.floatsPerRow(c) + deciders * DeciderPass.floatsPerRow(c) + (k + 6) * h + 8 * k
            + 3 * c.vocabSize + 3 * c.deciderIntermediateSize + 32
        let blocks = 16 * (12 * layers + 4 * deciders + k + 64)
        return rows * perRow + blocks + LayerPass.scratchFloats(c, rows: rows, longest: longest)
    }

    /// Forward, and when `learning` backward, adding to `gradients`.
    func run(_ batch: Batch, _ objective: Objective, depth choice: DepthChoice, learning: Bool) -> PassResult {
        arena.removeAll()
        var forward = Forward(batch, answers: Selection(batch) { batch.targets[$0] >= 0 })
        embed(&forward)
        iterate(&forward, objective, choice, complete: learning)
        finish(&forward)
        if learning { backward(forward, objective, sampled: choice.isSampled) }
        forward.result.depths = forward.depths
        return forward.result
    }

    // MARK: Forward

    /// Everything a pass leaves behind for its derivative.
    struct Forward {
        let batch: Batch
        let everyRow: Selection
        let answers: Selection
        var prelude: [LayerTape] = []
        /// Core tapes of iteration t at [t − 1].
        var core: [[LayerTape]] = []
        var coda: [LayerTape] = []
        /// hᵗ at [t], [R, H].
        var states: [UnsafeMutablePointer<Float>] = []
        var deciders: [DeciderTape] = []
        var early: EarlyExits?
        var online: OnlineExits?
        var depths: [Int]
        var normed: UnsafeMutablePointer<Float>!  // [A, H], what the head reads
        var dLogits: UnsafeMutablePointer<Float>!  // [A, V], softmax − one-hot
        var result = PassResult()

        init(_ batch: Batch, answers: Selection) {
            self.batch = batch
            self.answers = answers
            everyRow = Selection(batch) { _ in true }
            depths = [Int](repeating: 0, count: batch.rows)
        }

        /// Whether the row takes iteration t: it has not left before.
        func isActive(_ row: Int, _ t: Int) -> Bool { depths[row] == 0 || depths[row] >= t }
    }

    var h: Int { configuration.hiddenSize }
    var k: Int { configuration.maxDepth }

    private func embed(_ f: inout Forward) {
        let x = arena.take(f.batch.rows * h)
        for (row, token) in f.batch.tokens.enumerated() {
            (x + row * h).update(from: weights + layout.embedding + Int(token) * h, count: h)
        }
        var state = x
        for place in layout.prelude {
            f.prelude.append(layer.forward(place, state, f.batch, f.everyRow))
            state = f.prelude.last!.output
        }
        f.states = [state]
    }

    /// complete: goes on to K although every row has left.
    private func iterate(_ f: inout Forward, _ objective: Objective, _ choice: DepthChoice, complete: Bool) {
        decideEarly(&f, objective, choice)
        for t in 1...k {
            var state = f.states[t - 1]
            var tapes: [LayerTape] = []
            for place in layout.core {
                tapes.append(layer.forward(place, state, f.batch, f.everyRow))
                state = tapes.last!.output
            }
            f.core.append(tapes)
            f.states.append(keepFrozen(f, computed: state, iteration: t))
            decideOnline(&f, objective, choice, iteration: t)
            if !complete, f.depths.allSatisfy({ $0 > 0 && $0 <= t }) { break }
        }
        if choice.isFixed { return }
        let p = f.early?.p ?? f.online!.p
        f.result.exitDistribution = Array(UnsafeBufferPointer(start: p, count: f.batch.rows * k))
        f.result.divergence = (0..<f.batch.rows).map {
            f.batch.valid[$0] ? objective.prior.divergence(p + $0 * k) : 0
        }
    }

    /// hᵗ: the computed state of rows still going, the old one of rows that have left before iteration t.
    private func keepFrozen(_ f: Forward, computed: UnsafeMutablePointer<Float>, iteration t: Int)
        -> UnsafeMutablePointer<Float>
    {
        let state = arena.take(f.batch.rows * h)
        for row in 0..<f.batch.rows {
            let source = f.isActive(row, t) ? computed : f.states[t - 1]
            (state + row * h).update(from: source + row * h, count: h)
        }
        return state
    }

    private func decideEarly(_ f: inout Forward, _ objective: Objective, _ choice: DepthChoice) {
        if case .fixed(let depth) = choice {
            f.depths = [Int](repeating: depth, count: f.batch.rows)
            return
        }
        guard configuration.decider == .early else {
            f.online = OnlineExits(rows: f.batch.rows, maxDepth: k, arena: arena)
            return
        }
        let tape = decider.forward(f.states[0], rows: f.batch.rows)
        let exits = EarlyExits(
            tape.logits, noise: choice.isSampled ? f.batch.noise : nil, rows: f.batch.rows, maxDepth: k,
            temperature: objective.temperature, arena: arena)
        for row in 0..<f.batch.rows { f.depths[row] = exits.depth(row) }
        f.deciders = [tape]
        f.early = exits
    }

    private func decideOnline(_ f: inout Forward, _ objective: Objective, _ choice: DepthChoice, iteration t: Int) {
        guard let online = f.online else { return }
        if t == k {
            for row in 0..<f.batch.rows where f.depths[row] == 0 { f.depths[row] = k }
            if k == 1 { for row in 0..<f.batch.rows { online.leaveAtOnce(row) } }
            return
        }
        let tape = decider.forward(f.states[t], rows: f.batch.rows)
        f.deciders.append(tape)
        for row in 0..<f.batch.rows {
            let cumulative = online.observe(row, iteration: t, logit: tape.logits[row])
            if f.depths[row] == 0, cumulative >= choice.threshold ?? f.batch.noise[row] { f.depths[row] = t }
        }
    }

    /// Coda, norm, head and loss of the rows that predict an answer.
    private func finish(_ f: inout Forward) {
        var state = f.states.last!
        for (index, place) in layout.coda.enumerated() {
            let isLast = index == layout.coda.count - 1
            f.coda.append(layer.forward(place, state, f.batch, isLast ? f.answers : f.everyRow))
            state = f.coda.last!.output
        }
        let (a, v, width) = (f.answers.count, configuration.vocabSize, Int32(h))
        f.normed = arena.take(a * h)
        anira_rmsnorm(
            state, width, weights + layout.norm, configuration.rmsNormEps, Int32(a), width, f.normed, width)
        f.dLogits = arena.take(a * v)
        Products.forward(f.normed, weights + layout.head, m: a, n: v, k: h, into: f.dLogits)
        f.result.answerRows = f.answers.rows
        for (index, row) in f.answers.rows.enumerated() {
            let (logits, target) = (f.dLogits + index * v, Int(f.batch.targets[Int(row)]))
            f.result.predictions.append(anira_argmax(logits, Int32(v)))
            f.result.crossEntropy.append(anira_logsumexp(logits, Int32(v)) - logits[target])
            anira_softmax(logits, Int32(v))
            logits[target] -= 1
        }
    }
}

extension DepthChoice {
    fileprivate var isSampled: Bool { if case .sampled = self { true } else { false } }
    fileprivate var isFixed: Bool { if case .fixed = self { true } else { false } }
    /// Where an online decider stops; nil: at the row's noise.
    fileprivate var threshold: Float? { if case .inferred(let threshold) = self { threshold } else { nil } }
}
