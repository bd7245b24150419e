import ArgumentParser
import Training

/// Every field of a training configuration as an option.
struct TrainingOverrides: ParsableArguments {
    @Option(help: "Training steps.") var steps: Int?
    @Option(help: "Rows of a step.") var batch: Int?
    @Option(help: "Tokens a thread has in memory at once.") var microBatch: Int?
    @Option(help: "Threads; the result is reproducible for a given number.") var threads: Int?
    @Option(help: "Seed of weights, data and sampling.") var seed: UInt64?
    @Option(help: "Learning rate after warm-up.") var learningRate: Float?
    @Option(help: "Steps of linear warm-up.") var warmup: Int?
    @Option(help: "Last steps, over which the rate falls (at most half of all).") var cooldown: Int?
    @Option(help: "Learning rate at the last step.") var finalLearningRate: Float?
    @Option(help: "AdamW weight decay of matrices.") var weightDecay: Float?
    @Option(help: "AdamW decay of the first moment.") var beta1: Float?
    @Option(help: "AdamW decay of the second moment.") var beta2: Float?
    @Option(help: "AdamW epsilon.") var epsilon: Float?
    @Option(help: "Largest norm of the gradient.") var clip: Float?
    @Option(help: "Full weight λ of the compute regulariser.") var lambda: Float?
    @Option(help: "γ of the depth prior.") var gamma: Float?
    @Option(help: "Prior: ratio, γ^-t, or rate, exp(-γ t).") var priorForm: DepthPrior.Form?
    @Option(help: "Temperature τ of the Gumbel-softmax.") var temperature: Float?
    @Option(help: "Answer accuracy (0…1) at which λ begins to rise.") var learnUntil: Double?
    @Option(help: "Step at which λ begins to rise at the latest.") var learnAtMost: Int?
    @Option(help: "Steps over which λ rises.") var lambdaRamp: Int?
    @Option(help: "Initial bias of the decider towards K.") var depthBias: Float?
    @Option(help: "Hidden size H.") var hidden: Int?
    @Option(help: "Feed-forward size I.") var intermediate: Int?
    @Option(help: "Attention heads; KV heads follow unless given.") var heads: Int?
    @Option(help: "KV heads.") var keyValueHeads: Int?
    @Option(help: "Prelude layers.") var preludeLayers: Int?
    @Option(help: "Core layers.") var coreLayers: Int?
    @Option(help: "Coda layers.") var codaLayers: Int?
    @Option(help: "Most core iterations K.") var maxDepth: Int?
    @Option(help: "Hidden size of the decider.") var deciderIntermediate: Int?
    @Option(help: "Most tokens of a row.") var maxLength: Int?
    @Flag(inversion: .prefixedNo, help: "Share the embedding with the head.") var tieEmbeddings: Bool?
    @Option(help: "Steps between records.") var recordEvery: Int?
    @Option(help: "Steps between evaluations.") var evaluateEvery: Int?
    @Option(help: "Steps between saves.") var saveEvery: Int?
    @Option(help: "Validation rows of an evaluation.") var evaluationRows: Int?
    @OptionGroup(title: "Task options") var task: TaskArguments

    func apply(to c: inout TrainingConfiguration) throws {
        if let heads { (c.heads, c.keyValueHeads) = (heads, heads) }
        set(&c, \.steps, steps)
        set(&c, \.batch, batch)
        set(&c, \.microBatch, microBatch)
        set(&c, \.threads, threads)
        set(&c, \.seed, seed)
        set(&c, \.learningRate, learningRate)
        set(&c, \.warmup, warmup)
        set(&c, \.cooldown, cooldown)
        set(&c, \.finalLearningRate, finalLearningRate)
        set(&c, \.weightDecay, weightDecay)
        set(&c, \.beta1, beta1)
        set(&c, \.beta2, beta2)
        set(&c, \.epsilon, epsilon)
        set(&c, \.clip, clip)
        set(&c, \.lambda, lambda)
        set(&c, \.gamma, gamma)
        set(&c, \.priorForm, priorForm)
        set(&c, \.temperature, temperature)
        set(&c, \.learnUntil, learnUntil)
        set(&c, \.learnAtMost, learnAtMost)
        set(&c, \.lambdaRamp, lambdaRamp)
        set(&c, \.depthBias, depthBias)
        set(&c, \.hiddenSize, hidden)
        set(&c, \.intermediateSize, intermediate)
        set(&c, \.keyValueHeads, keyValueHeads)
        set(&c, \.preludeLayers, preludeLayers)
        set(&c, \.coreLayers, coreLayers)
        set(&c, \.codaLayers, codaLayers)
        set(&c, \.maxDepth, maxDepth)
        set(&c, \.deciderIntermediateSize, deciderIntermediate)
        set(&c, \.maxLength, maxLength)
        set(&c, \.tieEmbeddings, tieEmbeddings)
        set(&c, \.recordEvery, recordEvery)
        set(&c, \.evaluateEvery, evaluateEvery)
        set(&c, \.saveEvery, saveEvery)
        set(&c, \.evaluationRows, evaluationRows)
        task.apply(to: &c.taskOptions)
    }

    private func set<Value>(
        _ c: inout TrainingConfiguration, _ field: WritableKeyPath<TrainingConfiguration, Value>, _ value: Value?
    ) {
        if let value { c[keyPath: field] = value }
    }
}

extension DepthPrior.Form: ExpressibleByArgument {}
