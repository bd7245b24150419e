/// Learning rate and λ by step. λ lets the model learn first and save compute after: it stays 0 until the answers are
/// mostly right, because a model that is pressed for compute before it can answer settles at depth 1.
struct Schedule: Sendable {
    let configuration: TrainingConfiguration
    /// Moving average of the answers' accuracy.
    private(set) var accuracy = 0.0
    /// Step at which λ began to rise; nil before.
    private(set) var learnedAt: Int?

    /// step: where the run begins or goes on.
    init(_ configuration: TrainingConfiguration, step: Int = 0, accuracy: Double = 0, learnedAt: Int? = nil) {
        self.configuration = configuration
        self.accuracy = accuracy
        self.learnedAt = learnedAt ?? (configuration.learnAtMost == 0 ? step : nil)
    }

    /// Learning rate of a step, counted from 1.
    func learningRate(_ step: Int) -> Float {
        let c = configuration
        if step < c.warmup { return c.learningRate * Float(step) / Float(c.warmup) }
        let (left, cooldown) = (c.steps - step, min(c.cooldown, c.steps / 2))
        guard left < cooldown else { return c.learningRate }
        let share = Float(max(left, 0)) / Float(cooldown)
        return c.finalLearningRate + (c.learningRate - c.finalLearningRate) * share
    }

    func lambda(_ step: Int) -> Float {
        guard let learnedAt else { return 0 }
        let share = configuration.lambdaRamp == 0 ? 1 : Float(step - learnedAt) / Float(configuration.lambdaRamp)
        return configuration.lambda * min(max(share, 0), 1)
    }

    /// Takes the accuracy of a step's answers, 0…1.
    mutating func observe(_ step: Int, accuracy found: Double) {
        accuracy += (found - accuracy) * 0.02
        guard learnedAt == nil else { return }
        if accuracy >= configuration.learnUntil || step >= configuration.learnAtMost { learnedAt = step }
    }
}
