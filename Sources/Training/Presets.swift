import Model
import Tasks

/// Named starting points of a configuration.
public enum Preset: String, CaseIterable, Sendable, Codable {
    /// The paper's table of hyper-parameters (A.2).
    case paper
    /// Minutes to an hour on two cores.
    case small

    /// The preset's configuration of a task and variant.
    public func configuration(_ task: TaskName, _ variant: ModelConfiguration.DeciderKind) -> TrainingConfiguration {
        switch self {
        case .paper: Self.paper(task, variant)
        case .small: Self.small(task, variant)
        }
    }

    private static func paper(_ task: TaskName, _ variant: ModelConfiguration.DeciderKind) -> TrainingConfiguration {
        var c = TrainingConfiguration(
            task: task, taskOptions: TaskOptions(), variant: variant, hiddenSize: 512, intermediateSize: 2048, heads: 8,
            keyValueHeads: 8, preludeLayers: 1, coreLayers: 1, codaLayers: 1, maxDepth: 6,
            deciderIntermediateSize: 2048, maxLength: 256, steps: 250_000, batch: 64, learningRate: 1e-3, warmup: 1000,
            cooldown: 0, finalLearningRate: 1e-3, lambda: 0.1, gamma: 2, learnUntil: 0, learnAtMost: 0, lambdaRamp: 0,
            depthBias: 0, evaluateEvery: 1000, saveEvery: 1000)
        switch task {
        case .mano:
            (c.hiddenSize, c.intermediateSize, c.deciderIntermediateSize, c.maxDepth) = (256, 1664, 1664, 14)
            (c.maxLength, c.batch, c.learningRate, c.gamma) = (64, 512, 1e-4, 1.25)
        case .brevo:
            c.taskOptions.nodes = 30
        case .depo:
            (c.taskOptions.nodes, c.taskOptions.hops, c.learningRate) = (75, 8, 3e-4)
        case .lano:
            (c.maxLength, c.learningRate, c.lambda, c.gamma) = (512, 1e-4, 0.01, 1)
        }
        c.finalLearningRate = c.learningRate
        return c
    }

    private static func small(_ task: TaskName, _ variant: ModelConfiguration.DeciderKind) -> TrainingConfiguration {
        var c = TrainingConfiguration(
            task: task, taskOptions: TaskOptions(), variant: variant, hiddenSize: 64, intermediateSize: 192, heads: 4,
            keyValueHeads: 4, preludeLayers: 1, coreLayers: 1, codaLayers: 1, maxDepth: 6,
            deciderIntermediateSize: 192, maxLength: 64, steps: 24_000, batch: 256, learningRate: 2e-3, warmup: 500,
            cooldown: 4000, finalLearningRate: 1e-4, lambda: 0.1, gamma: 1.25, learnUntil: 0.975, learnAtMost: 17_000,
            lambdaRamp: 3000, depthBias: 4, evaluateEvery: 500, saveEvery: 500)
        switch task {
        case .mano:
            (c.taskOptions.modulus, c.taskOptions.maxSize) = (7, 3)
        case .brevo:
            c.taskOptions.nodes = 8
            (c.batch, c.steps, c.cooldown) = (128, 7000, 2000)
            (c.learnUntil, c.learnAtMost, c.lambdaRamp) = (0.97, 4000, 1000)
        case .depo:
            (c.taskOptions.nodes, c.taskOptions.hops, c.taskOptions.queries) = (8, 4, 4)
            (c.batch, c.steps, c.cooldown) = (128, 10_500, 3000)
            (c.learnUntil, c.learnAtMost, c.lambdaRamp) = (0.97, 6500, 2000)
        case .lano:
            (c.batch, c.maxLength, c.steps, c.cooldown, c.evaluationRows) = (16, 512, 3000, 1000, 32)
            (c.lambda, c.gamma, c.learnUntil, c.learnAtMost, c.lambdaRamp) = (0.01, 1, 0.9, 1000, 500)
            // From scratch the early decider's bias towards K would have grown too strong before λ comes.
            if variant == .early { (c.depthBias, c.lambda, c.gamma, c.lambdaRamp) = (0, 0.02, 1.25, 300) }
        }
        return c
    }
}
