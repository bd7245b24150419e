import Foundation
import Model
import Tasks
import Testing

@testable import Training

/// A configuration that trains in a moment: MANO modulo 3, one or two operators.
func tinyTraining(_ variant: ModelConfiguration.DeciderKind, steps: Int = 6) -> TrainingConfiguration {
    var c = Preset.small.configuration(.mano, variant)
    (c.taskOptions.modulus, c.taskOptions.maxSize) = (3, 2)
    (c.hiddenSize, c.intermediateSize, c.deciderIntermediateSize, c.heads, c.keyValueHeads) = (16, 24, 12, 2, 1)
    (c.maxDepth, c.batch, c.steps, c.microBatch, c.maxLength) = (3, 12, steps, 40, 16)
    (c.warmup, c.cooldown, c.learnUntil, c.learnAtMost, c.lambdaRamp) = (2, 2, 0.5, 2, 2)
    (c.recordEvery, c.evaluateEvery, c.saveEvery, c.evaluationRows) = (2, 3, 2, 8)
    return c
}

/// A folder that is gone after the body.
func withFolder(_ body: (String) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("anira-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { #expect(throws: Never.self) { try FileManager.default.removeItem(atPath: path) } }
    try body(path)
}

/// A model of a few hundred parameters.
func tinyModel(
    _ decider: ModelConfiguration.DeciderKind, keyValueHeads: Int = 1, layers: (Int, Int, Int) = (1, 1, 1),
    tied: Bool = false
) throws -> ModelConfiguration {
    try ModelConfiguration(
        fields: [
            "vocab_size": 7, "hidden_size": 8, "intermediate_size": 10, "num_attention_heads": 2,
            "num_key_value_heads": keyValueHeads, "num_prelude_layers": layers.0, "num_core_layers": layers.1,
            "num_coda_layers": layers.2, "max_depth": 3, "max_position_embeddings": 16, "decider": decider.rawValue,
            "decider_intermediate_size": 6, "tie_word_embeddings": tied,
        ], path: "test")
}
