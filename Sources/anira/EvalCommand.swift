import Analysis
import ArgumentParser
import Engine
import Foundation
import Kernels
import Messaging
import Model
import Proto
import Tasks
import Training

struct Eval: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Accuracy and depth on a task, by difficulty, through the live services or in this process.",
        discussion: """
            Prints, for each difficulty, accuracy and mean depth on answer and question tokens; then the accuracy at \
            every fixed depth and along the threshold dial. The depth of an answer token is read where it is predicted.
              anira eval --task mano --model checkpoints/mano-online
              anira eval --task mano --modulus 7 --max-size 3 --endpoint tcp://127.0.0.1:5555
            """)
    @Option(help: "mano, brevo, depo or lano.") var task: String
    @Option(help: "Checkpoint folder: run in this process, with the task's options that it was trained on.")
    var model: String?
    @Option(help: "Client endpoint of a running suite.") var endpoint: String?
    @Option(help: "Rows of each size.") var rows = 200
    @Option(help: "train, validation or test; they share no instance.") var split = Split.test
    @Option(help: "Seed of the rows.") var seed: UInt64 = 1
    @Option(help: "Comma-separated sizes; default: all training sizes, the largest for DEPO.") var sizes: String?
    @Option(help: "Comma-separated thresholds of the sweep.") var thresholds = "0.1,0.3,0.5,0.7,0.9"
    @Flag(inversion: .prefixedNo, help: "Measure every fixed depth too.") var curve = true
    @Flag(inversion: .prefixedNo, help: "Measure the thresholds too.") var sweep = true
    @Option(help: "Give up after so many seconds without a reply.") var timeout = 60.0
    @Flag(help: "Print the results as JSON.") var json = false
    @OptionGroup(title: "With --model") var compute: ComputeOptions
    @OptionGroup(title: "Depth policy") var depth: DepthOptions
    @OptionGroup(title: "Task options") var taskOptions: TaskArguments

    func validate() throws {
        guard (model == nil) != (endpoint == nil) else {
            throw ValidationError("give --model DIR or --endpoint E, one of them")
        }
        guard model != nil || compute.isDefault else {
            throw ValidationError("--weights, --kv and --threads are for --model: a running suite has its own")
        }
        if let endpoint { try checkEndpoint(endpoint, "--endpoint") }
        guard (1...10_000_000).contains(rows) else { throw ValidationError("--rows must be 1…10000000") }
        try checkTimeout(timeout)
        guard try thresholdValues().allSatisfy({ (0...1).contains($0) }) else {
            throw ValidationError("--thresholds must be 0…1, such as 0.3,0.5")
        }
    }

    func run() throws {
        let trained = try trainedOptions()
        var options = trained ?? TaskOptions()
        taskOptions.apply(to: &options)
        let task = try makeTask(name: task, options: options)
        let runner = try RequestRunner(model: model, compute: compute, endpoint: endpoint, timeout: timeout)
        let found = try runner.model()
        guard found.maxDepth > 0, Int(found.vocabSize) >= task.vocabulary.count, try sameWords(task) else {
            throw TrainingError(
                "the model's vocabulary of \(found.vocabSize) is not that of \(task.name.rawValue) with these options "
                    + "(\(task.vocabulary.count) words); give the options it was trained with")
        }
        let drawn = try draw(task)
        let passes = TaskPasses(task: task, rows: drawn, runner: runner, show: Passes(total: try passCount(found)))
        let adaptive = try passes.table(try depth.message())
        let fixed = try (curve ? Array(1...Int(found.maxDepth)) : []).map { k in
            Evaluation.Point(
                setting: Double(k), try passes.table(.with { ($0.policy, $0.value) = ("fixed", Int32(k)) }))
        }
        let swept = try (sweep ? try thresholdValues() : []).map { q in
            Evaluation.Point(setting: q, try passes.table(try depth.message(threshold: Float(q))))
        }
        passes.show.end()
        let conditions = Evaluation.Conditions(
            task, trained: trained, model: found.name, fingerprint: found.fingerprint,
            kv: model == nil ? nil : compute.kv.rawValue, policy: try depth.words(), split: split, seed: seed,
            rows: drawn)
        let result = Evaluation(
            conditions, maxDepth: Int(found.maxDepth), adaptive: adaptive, fixed: fixed, sweep: swept)
        if json { try printJSON(result) } else { print(EvaluationText(result).text) }
    }

    private func passCount(_ model: Anira_V1_Model) throws -> Int {
        1 + (curve ? Int(model.maxDepth) : 0) + (sweep ? try thresholdValues().count : 0)
    }

    private func thresholdValues() throws -> [Double] {
        try thresholds.split(separator: ",").map {
            guard let value = Double($0) else { throw ValidationError("--thresholds: '\($0)' is not a number") }
            return value
        }
    }

    /// The options the model was trained with, where its folder says so.
    private func trainedOptions() throws -> TaskOptions? {
        guard let model, FileManager.default.fileExists(atPath: "\(model)/training.json") else { return nil }
        let stored = try TrainingConfiguration(folder: model)
        guard stored.task.rawValue == task else {
            throw ValidationError("--task: the model in \(model) was trained on \(stored.task.rawValue)")
        }
        return try makeTask(stored.task, options: stored.taskOptions).options
    }

    /// Token ids mean the same to the model and the task.
    private func sameWords(_ task: any SequenceTask) throws -> Bool {
        guard let model, let words = try Checkpoint(directory: model).vocabulary else { return true }
        return task.vocabulary.indices.allSatisfy { words.text(of: [Int32($0)]) == task.vocabulary[$0] }
    }

    private func draw(_ task: any SequenceTask) throws -> [Row] {
        let dataset = Dataset(task: task, split: split, seed: seed)
        guard task.choosableSizes != nil else {
            guard sizes == nil else { throw ValidationError("--sizes: \(task.name.rawValue) draws its sizes itself") }
            return try (0..<rows).map { try dataset.row(at: UInt64($0)) }
        }
        let all = Array(task.trainingSizes)
        let chosen = try sizes.map { try integers($0, "--sizes").map(Int.init) }
        guard chosen?.isEmpty != true else { throw ValidationError("--sizes is empty; give e.g. 1,2,3") }
        guard Set(chosen ?? []).count == chosen?.count ?? 0 else {
            throw ValidationError("--sizes names a size twice")
        }
        let wanted = chosen ?? (task.name == .depo ? [task.trainingSizes.upperBound] : all)
        return try wanted.flatMap { size in try (0..<rows).map { try dataset.row(at: UInt64($0), size: size) } }
    }
}

/// Runs the rows of a task under one depth setting after the other.
private struct TaskPasses {
    let task: any SequenceTask
    let rows: [Row]
    let runner: RequestRunner
    let show: Passes

    func table(_ depth: Anira_V1_Depth) throws -> DepthTable {
        var table = DepthTable(task)
        let requests = rows.map { row in
            ClientRequest.with {
                $0.id = newRequestID("eval")
                $0.score.tokens = row.tokens
                $0.score.depth = depth
                $0.score.include.logits = true
            }
        }
        var found = [(predictions: [Int32], depths: [Int])](repeating: ([], []), count: rows.count)
        try runner.run(requests) { index, reply, tensors in
            let scored = reply.scored
            let predictions = try Self.predictions(
                scored, tensors, tokens: rows[index].tokens.count, after: rows[index].targets.map { $0 - 1 })
            found[index] = (predictions, scored.depths.map(Int.init))
        }
        // In the order of the rows, whatever order the replies came in: sums are then the same to the last bit.
        for (row, found) in zip(rows, found) {
            table.add(row, predictions: found.predictions, depths: found.depths)
        }
        show.passed()
        return table
    }

    /// The most probable token after each of `positions`, from the reply's logits [tokens, V], which are checked before use.
    private static func predictions(
        _ scored: Anira_V1_Scored, _ tensors: [Frame], tokens: Int, after positions: [Int]
    ) throws -> [Int32] {
        let (shape, frame) = (scored.logits.shape, Int(scored.logits.frame) - 1)
        guard shape.count == 2, Int(shape[0]) == tokens, shape[1] > 0, tensors.indices.contains(frame),
            scored.depths.count == tokens, tensors[frame].count == tokens * Int(shape[1]) * 4
        else { throw RequestFailure(code: "INTERNAL", message: "a scored reply has no logits of the right shape") }
        // A frame's bytes may begin anywhere.
        let logits = [Float](unsafeUninitializedCapacity: tokens * Int(shape[1])) { floats, count in
            tensors[frame].withBytes { UnsafeMutableRawBufferPointer(floats).copyMemory(from: $0) }
            count = tokens * Int(shape[1])
        }
        return logits.withUnsafeBufferPointer { logits in
            positions.map { anira_argmax(logits.baseAddress! + $0 * Int(shape[1]), Int32(shape[1])) }
        }
    }
}

/// How many passes are done, on a terminal.
final class Passes {
    private let total: Int
    private var done = 0
    private let isTerminal = isatty(STDERR_FILENO) != 0

    init(total: Int) { self.total = total }

    func passed() {
        done += 1
        if isTerminal { tell("\r\u{1B}[Kpass \(done) of \(total)") }
    }

    func end() { if isTerminal { tell("\r\u{1B}[K") } }
}
