import ArgumentParser
import Engine
import Foundation
import KVStore
import Kernels
import Messaging
import Model
import Proto
import Tasks
import Training

struct BenchWeights: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "weights",
        abstract: "What shorter weights, keys and values change: logits, predictions and depths against f32.",
        discussion: """
            Scores rows of the task that a checkpoint was trained on (its training.json), or random tokens, with each \
            format, in this process. Depths are the model's own, so a changed depth shows in the logits too.
            """)
    @Option(help: "Checkpoint folder.") var model: String
    @Option(help: "Rows scored.") var rows = 400
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var format: String
        var tokens: Int
        /// |logit − f32's|.
        var meanLogitError: Double
        var largestLogitError: Double
        /// Largest |logit| of f32, to compare with.
        var largestLogit: Double
        /// Share of tokens with another most likely next token, and with another depth.
        var predictionsChanged: Double
        var depthsChanged: Double
        var meanDepth: Double
    }

    func validate() throws {
        guard rows > 0 else { throw ValidationError("--rows must be above 0") }
    }

    func run() throws {
        let prompts = try prompts()
        let reference = try scores(.f32, .f32, prompts)
        var table = [compare("f32", reference, reference)]
        for weights in [WeightFormat.bf16, .int8] {
            table.append(compare("weights \(weights.rawValue)", try scores(weights, .f32, prompts), reference))
        }
        for kv in [StoredType.f16, .bf16] {
            table.append(compare("kv \(kv.rawValue)", try scores(.f32, kv, prompts), reference))
        }
        progress(nil)
        if json { return try printJSON(BenchReport(table)) }
        let largest = String(format: "%.1f", table[0].largestLogit)
        print(heading("\(model), \(rows) rows, \(table[0].tokens) tokens, logits up to \(largest)"))
        print("               mean |Δlogit|   largest   predictions changed   depths changed   mean depth")
        for row in table {
            let name = row.format.padding(toLength: 12, withPad: " ", startingAt: 0)
            print(
                String(
                    format: "%@ %15.5f %9.4f %20.3f%% %15.3f%% %12.3f", name, row.meanLogitError, row.largestLogitError,
                    100 * row.predictionsChanged, 100 * row.depthsChanged, row.meanDepth))
        }
    }

    private func prompts() throws -> [[Int32]] {
        if FileManager.default.fileExists(atPath: "\(model)/training.json") {
            let run = try TrainingConfiguration(folder: model)
            let data = Dataset(
                task: try makeTask(name: run.task.rawValue, options: run.taskOptions), split: .test, seed: 1)
            return try (0..<rows).map { try data.row(at: UInt64($0)).tokens }
        }
        let c = try Checkpoint(directory: model).configuration
        var random = SystemRandomNumberGenerator()
        let length = min(64, c.maxPositionEmbeddings)
        return (0..<rows).map { _ in
            (0..<length).map { _ in Int32.random(in: 0..<Int32(c.vocabSize), using: &random) }
        }
    }

    private struct Scores {
        var logits: [[Float]] = []
        var depths: [[Int32]] = []

        /// The most likely next token of every position.
        var predictions: [[Int32]] {
            zip(logits, depths).map { logits, depths in
                let width = logits.count / depths.count
                return logits.withUnsafeBufferPointer { all in
                    depths.indices.map { anira_argmax(all.baseAddress! + $0 * width, Int32(width)) }
                }
            }
        }
    }

    private func scores(_ weights: WeightFormat, _ kv: StoredType, _ prompts: [[Int32]]) throws -> Scores {
        let engine = try LocalEngine(try Checkpoint(directory: model, weights: weights), kv: kv, residentMiB: 256)
        var found = Scores()
        for (index, tokens) in prompts.enumerated() {
            progress("weights \(weights.rawValue), kv \(kv.rawValue): \(index + 1) of \(prompts.count) rows")
            var request = ClientRequest()
            request.id = "\(index)"
            request.score.tokens = tokens
            request.score.include.logits = true
            guard let answer = engine.run([request]).first, case .scored(let scored) = answer.reply.reply,
                let tensor = answer.tensors.first
            else { throw RequestFailure(code: "INTERNAL", message: "row \(index) was not scored") }
            found.depths.append(scored.depths)
            found.logits.append(tensor.withBytes { Array($0.bindMemory(to: Float.self)) })
        }
        return found
    }

    private func compare(_ format: String, _ found: Scores, _ reference: Scores) -> Row {
        let errors = zip(found.logits.joined(), reference.logits.joined()).map { Double(abs($0 - $1)) }
        let depths = zip(found.depths.joined(), reference.depths.joined()).map { $0 != $1 }
        let changed = zip(found.predictions.joined(), reference.predictions.joined()).count { $0 != $1 }
        return Row(
            format: format, tokens: depths.count,
            meanLogitError: errors.reduce(0, +) / Double(max(1, errors.count)), largestLogitError: errors.max() ?? 0,
            largestLogit: Double(reference.logits.joined().map(abs).max() ?? 0),
            predictionsChanged: Double(changed) / Double(max(1, depths.count)),
            depthsChanged: Double(depths.count { $0 }) / Double(max(1, depths.count)),
            meanDepth: Double(found.depths.joined().reduce(0) { $0 + Int($1) }) / Double(max(1, depths.count)))
    }
}
