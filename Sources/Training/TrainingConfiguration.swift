import Foundation
import Model
import Tasks

/// Everything that determines a training run. Stored with the run as `training.json`; the same configuration, seed and
/// number of threads give the same model, bit for bit.
public struct TrainingConfiguration: Codable, Sendable, Equatable {
    public var task: TaskName
    public var taskOptions: TaskOptions
    public var variant: ModelConfiguration.DeciderKind

    // The model; its vocabulary is the task's.
    public var hiddenSize: Int
    public var intermediateSize: Int
    public var heads: Int
    public var keyValueHeads: Int
    public var preludeLayers: Int
    public var coreLayers: Int
    public var codaLayers: Int
    /// K.
    public var maxDepth: Int
    /// Width of the decider's hidden layer.
    public var deciderIntermediateSize: Int
    /// Most tokens of a row.
    public var maxLength: Int
    public var tieEmbeddings = false

    // The optimiser: AdamW, linear warm-up, constant rate, linear cool-down at the end.
    public var steps: Int
    /// Rows of a step.
    public var batch: Int
    /// Tokens that a thread has in memory at once; gradients accumulate over the step.
    public var microBatch = 2048
    public var learningRate: Float
    public var warmup: Int
    /// Last steps, over which the rate falls linearly to `finalLearningRate`; at most half of all.
    public var cooldown: Int
    public var finalLearningRate: Float
    public var weightDecay: Float = 0.01
    public var beta1: Float = 0.9
    public var beta2: Float = 0.99
    public var epsilon: Float = 1e-8
    /// Largest norm of the gradient; larger ones are scaled down to it.
    public var clip: Float = 1

    // The compute regulariser: λ · KL(p ‖ prior), zero until the model has learned.
    public var lambda: Float
    /// γ of the prior.
    public var gamma: Float
    public var priorForm: DepthPrior.Form = .ratio
    /// τ of the Gumbel-softmax (early).
    public var temperature: Float = 1
    /// λ starts to rise when the moving average of the answers' accuracy reaches this…
    public var learnUntil: Double
    /// …or at this step at the latest.
    public var learnAtMost: Int
    /// Steps over which λ rises linearly to its full value.
    public var lambdaRamp: Int
    /// Initial bias of the decider towards K: logit of K (early), minus the logit of leaving (online).
    public var depthBias: Float

    // The run.
    public var seed: UInt64 = 1
    public var threads = 2
    /// Checkpoint folder the run started from; nil: from random weights.
    public var startedFrom: String?
    /// Steps from one record, evaluation or saved state to the next.
    public var recordEvery = 50
    public var evaluateEvery: Int
    public var saveEvery: Int
    /// Validation rows of an evaluation.
    public var evaluationRows = 512

    /// The model that this configuration makes, for the task's vocabulary.
    func model(vocabulary: Int) throws -> ModelConfiguration {
        let fields: [String: Any] = [
            "model_type": "anira", "vocab_size": vocabulary, "hidden_size": hiddenSize,
            "intermediate_size": intermediateSize, "num_attention_heads": heads, "num_key_value_heads": keyValueHeads,
            "num_prelude_layers": preludeLayers, "num_core_layers": coreLayers, "num_coda_layers": codaLayers,
            "max_depth": maxDepth, "max_position_embeddings": maxLength, "decider": variant.rawValue,
            "decider_intermediate_size": deciderIntermediateSize, "tie_word_embeddings": tieEmbeddings,
        ]
        return try ModelConfiguration(fields: fields, path: "training configuration")
    }

    /// Throws an error that names the first field that makes no sense.
    public func check() throws {
        let most = 1_000_000_000
        let positive: [(String, Int, Int)] = [
            ("steps", steps, most), ("batch", batch, 1_000_000), ("micro-batch", microBatch, 10_000_000),
            ("threads", threads, 64), ("record-every", recordEvery, most), ("evaluate-every", evaluateEvery, most),
            ("save-every", saveEvery, most), ("evaluation-rows", evaluationRows, 10_000_000),
            ("max-length", maxLength, 1 << 22),
        ]
        for (name, value, most) in positive where !(1...most).contains(value) {
            throw TrainingError("\(name) is \(value); it must be 1…\(most)")
        }
        let notNegative: [(String, Int)] = [
            ("warmup", warmup), ("cooldown", cooldown), ("learn-at-most", learnAtMost), ("lambda-ramp", lambdaRamp),
        ]
        for (name, value) in notNegative where value < 0 {
            throw TrainingError("\(name) is \(value); it must be at least 0")
        }
        let numbers: [(String, Float, ClosedRange<Float>)] = [
            ("learning-rate", learningRate, 1e-9...10), ("final-learning-rate", finalLearningRate, 0...10),
            ("weight-decay", weightDecay, 0...1), ("beta1", beta1, 0...0.99999), ("beta2", beta2, 0...0.99999),
            ("clip", clip, 1e-6...1e6), ("lambda", lambda, 0...1e4), ("gamma", gamma, 1e-3...1e3),
            ("temperature", temperature, 1e-3...1e3), ("depth-bias", depthBias, -50...50),
            ("epsilon", epsilon, 1e-12...1),
            ("learn-until", Float(learnUntil), 0...1),
        ]
        for (name, value, range) in numbers where !range.contains(value) {
            throw TrainingError("\(name) is \(value); it must be \(range.lowerBound)…\(range.upperBound)")
        }
        let task = try makeTask(self.task, options: taskOptions)
        guard task.longestRow <= maxLength else {
            throw TrainingError(
                "rows of \(self.task.rawValue) have up to \(task.longestRow) tokens, max-length is \(maxLength); "
                    + "raise it or choose smaller sizes")
        }
        _ = try model(vocabulary: task.vocabulary.count)
    }

    /// What a short run may not have meant.
    public var remarks: [String] {
        var found: [String] = []
        if warmup > steps {
            found.append("the learning rate rises for \(warmup) steps (--warmup), longer than this run")
        }
        if lambda > 0, learnAtMost >= steps {
            found.append(
                "unless \(Int(100 * learnUntil))% of the answers' tokens are right before (--learn-until), no compute is saved "
                    + "in the first \(learnAtMost) steps (--learn-at-most): this run may end with λ = 0")
        }
        return found
    }
}

extension TrainingConfiguration {
    /// The configuration of the run in a folder. Errors name the file.
    public init(folder: String) throws {
        let path = "\(folder)/training.json"
        guard let data = FileManager.default.contents(atPath: path) else {
            throw TrainingError("\(folder) holds no run to resume (no training.json); leave out --resume to start one")
        }
        do {
            self = try JSONDecoder().decode(TrainingConfiguration.self, from: data)
        } catch let error as DecodingError {
            throw TrainingError("\(path) is damaged or of another version: \(error.summary(of: data))")
        }
    }

    /// Stores it as `training.json` in a run's folder: the first file there, so that any later one can be gone on from.
    func write(to folder: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try AtomicFile.write(encoder.encode(self), to: "\(folder)/training.json")
    }

    /// Whether model and task are the same: what a run may not change when it goes on.
    public func hasSameModel(as other: TrainingConfiguration) -> Bool {
        guard (task, taskOptions, variant) == (other.task, other.taskOptions, other.variant) else { return false }
        func shape(_ c: TrainingConfiguration) -> [Int] {
            [
                c.hiddenSize, c.intermediateSize, c.heads, c.keyValueHeads, c.preludeLayers, c.coreLayers, c.codaLayers,
                c.maxDepth, c.deciderIntermediateSize, c.maxLength, c.tieEmbeddings ? 1 : 0,
            ]
        }
        return shape(self) == shape(other)
    }
}
