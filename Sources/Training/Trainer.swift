import Analysis
import Dispatch
import Foundation
import Model
import Tasks

/// A training run: draws rows, takes steps, records, evaluates and saves (training.md, "The objective").
public final class Trainer {
    /// Where the run is after a step, for a progress line.
    public struct Progress: Sendable {
        /// The means since the last record; with an evaluation it is one.
        public let record: MetricsRecord
        public let steps: Int
        /// Whether λ has begun to rise.
        public let saving: Bool
    }

    /// How a run ended.
    public enum Ending: Sendable, Equatable { case finished, stopped(step: Int) }

    public let configuration: TrainingConfiguration
    private let task: any SequenceTask
    private let rows: Dataset
    private let lanes: Lanes
    private let optimizer: Optimizer
    private let prior: DepthPrior
    private var schedule: Schedule
    /// Steps taken.
    public private(set) var step = 0
    private let directory: String
    private let log: MetricsLog
    private let validation: [Row]
    private let lock: FolderLock

    /// A new run, or with `resume` the one in `directory`.
    ///
    /// - Parameters:
    ///   - directory: where checkpoint, state and records go; made if need be.
    ///   - initial: a checkpoint of the same shape to start from, its decider's output set anew.
    public init(
        _ configuration: TrainingConfiguration, directory: String, resume: Bool, initial: Checkpoint? = nil
    ) throws {
        try configuration.check()
        task = try makeTask(configuration.task, options: configuration.taskOptions)
        var configuration = configuration
        configuration.taskOptions = task.options
        self.configuration = configuration
        self.directory = directory
        rows = Dataset(task: task, split: .train, seed: configuration.seed)
        let model = try configuration.model(vocabulary: task.vocabulary.count)
        try Self.checkMemory(model, configuration, longest: task.longestRow)
        let weights = try Self.initialWeights(model, configuration, task.vocabulary, initial)
        let longest = task.longestRow
        lanes = try Lanes(
            model, weights: weights, count: configuration.threads, microBatch: configuration.microBatch,
            longest: longest)
        optimizer = try Optimizer(lanes.layout, configuration)
        prior = DepthPrior(gamma: configuration.gamma, form: configuration.priorForm, maxDepth: model.maxDepth)
        log = MetricsLog(directory: directory)
        let validationRows = Dataset(task: task, split: .validation, seed: configuration.seed)
        validation = try (0..<configuration.evaluationRows).map { index throws(TaskError) in
            try validationRows.row(at: UInt64(index), size: nil)
        }
        schedule = Schedule(configuration)
        try Self.makeFolder(directory)
        lock = try FolderLock(directory)
        if resume {
            try Self.compare(model, in: directory)
            let state = try TrainingState.load(lanes, optimizer, from: directory)
            guard state.step <= configuration.steps else {
                throw TrainingError(
                    "the run in \(directory) is at step \(state.step) already; give --steps \(state.step) or more")
            }
            step = state.step
            schedule = Schedule(configuration, step: step, accuracy: state.accuracy, learnedAt: state.learnedAt)
        }
        try log.truncate(after: step)
        try self.configuration.write(to: directory)
        if !resume { try save() }
    }

    /// Weights that the run trains.
    public var parameters: Int { lanes.layout.count }

    /// Refuses what could not fit, before memory is asked for that the system promises and does not have.
    private static func checkMemory(
        _ model: ModelConfiguration, _ configuration: TrainingConfiguration, longest: Int
    ) throws {
        // Weights, the copy they begin as, two moments, two copies while a checkpoint is written, a lane's gradients, and
        // activations of as many rows as a step has.
        let parameters = ParameterLayout(model).count
        let rows = min(configuration.batch * longest, configuration.threads * configuration.microBatch)
        let activations = Network.floatsNeeded(model, rows: rows, longest: longest)
        let needed = 4 * ((6 + configuration.threads) * parameters + activations)
        var limit = rlimit()
        let isLimited = getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0 && limit.rlim_cur < Int.max
        let available = min(Int(ProcessInfo.processInfo.physicalMemory), isLimited ? Int(limit.rlim_cur) : .max)
        guard needed > available else { return }
        let gibibytes = { (bytes: Int) in String(format: "%.1f", Double(bytes) / Double(1 << 30)) }
        throw TrainingError(
            "\(parameters) weights on \(configuration.threads) threads need \(gibibytes(needed)) GiB, of which there are "
                + "\(gibibytes(available)); make the model or the micro-batch smaller, or take fewer threads")
    }

    /// training.json may have been edited: the checkpoint beside it says what the weights are of. It comes after the first
    /// state, so that it may be missing.
    private static func compare(_ model: ModelConfiguration, in directory: String) throws {
        let path = "\(directory)/config.json"
        guard let json = FileManager.default.contents(atPath: path) else { return }
        guard try ModelConfiguration(json: json, path: path) == model else {
            throw TrainingError(
                "\(directory)/training.json is not of the model in config.json; put back its shape and task options, "
                    + "which cannot change, or start another run")
        }
    }

    private static func makeFolder(_ path: String) throws {
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw TrainingError(
                "cannot make the folder \(path): \(String(cString: strerror(errno))); choose another one")
        }
    }

    private static func initialWeights(
        _ model: ModelConfiguration, _ configuration: TrainingConfiguration, _ words: [String], _ initial: Checkpoint?
    ) throws -> [Float] {
        let layout = ParameterLayout(model)
        guard let initial else { return Initialization.weights(layout, configuration) }
        try compareMeaning(model, words, initial)
        do {
            return try layout.adopt(initial, fresh: Initialization.weights(layout, configuration))
        } catch let error as ModelError {
            throw TrainingError(
                "cannot start from \(initial.directory), its shape is not this run's: \(error); "
                    + "choose the same sizes and task options")
        }
    }

    /// Refuses weights of the right shape that another configuration or vocabulary gave their meaning.
    private static func compareMeaning(_ model: ModelConfiguration, _ words: [String], _ initial: Checkpoint) throws {
        let other = initial.configuration
        let fields: [(String, String, String)] = [
            ("num_attention_heads", "\(other.numAttentionHeads)", "\(model.numAttentionHeads)"),
            ("num_key_value_heads", "\(other.numKeyValueHeads)", "\(model.numKeyValueHeads)"),
            ("rope_theta", "\(other.ropeTheta)", "\(model.ropeTheta)"),
            ("rms_norm_eps", "\(other.rmsNormEps)", "\(model.rmsNormEps)"),
            ("tie_word_embeddings", "\(other.tieWordEmbeddings)", "\(model.tieWordEmbeddings)"),
        ]
        for (field, found, wanted) in fields where found != wanted {
            throw TrainingError(
                "cannot start from \(initial.directory): its \(field) is \(found), this run's \(wanted)")
        }
        guard let known = initial.vocabulary?.words,
            let id = words.indices.first(where: { known.count > $0 && known[$0] != words[$0] })
        else { return }
        throw TrainingError(
            "cannot start from \(initial.directory): its token \(id) is '\(known[id])', this run's '\(words[id])'; "
                + "choose the same task and task options")
    }

    /// Trains to the last step, or until `shouldStop` says so between two steps; saves either way. Throws when a value
    /// is no longer finite: what was saved before is then intact.
    public func run(shouldStop: () -> Bool, report: (Progress) -> Void) throws -> Ending {
        var sums = Sums()
        while step < configuration.steps {
            if shouldStop() {
                try save()
                return .stopped(step: step)
            }
            try takeStep(&sums)
            let evaluates = step % configuration.evaluateEvery == 0 || step == configuration.steps
            var record = sums.record(step, rate: schedule.learningRate(step))
            if evaluates { record.validation = evaluate() }
            if evaluates || step % configuration.recordEvery == 0 {
                try log.append(record)
                sums = Sums()
            }
            report(Progress(record: record, steps: configuration.steps, saving: schedule.learnedAt != nil))
            if step % configuration.saveEvery == 0 { try save() }
        }
        try save()
        return .finished
    }

    // MARK: A step

    private func takeStep(_ sums: inout Sums) throws {
        let next = step + 1
        let sequences = try draw(step: next)
        let objective = Objective(
            lambda: schedule.lambda(next), prior: prior, temperature: configuration.temperature,
            answers: sequences.reduce(0) { $0 + $1.targets.count { $0 >= 0 } },
            validRows: sequences.reduce(0) { $0 + $1.rows })
        let results = lanes.run(sequences, objective, depth: .sampled, learning: true)
        let norm = optimizer.norm(lanes.gradients)
        let found = StepSummary(sequences, results, objective)
        guard norm.isFinite, found.crossEntropy.isFinite, found.divergence.isFinite else {
            throw TrainingError(
                "step \(next): loss or gradient is not a finite number; the last good state is in \(directory); "
                    + "go on from it with --resume and a lower --learning-rate")
        }
        optimizer.update(
            lanes.weights, lanes.gradients, norm: norm, step: next, learningRate: schedule.learningRate(next))
        step = next
        schedule.observe(next, accuracy: found.accuracy)
        sums.add(found, norm: norm)
    }

    /// The rows of a step with their noise, drawn on all threads.
    private func draw(step: Int) throws -> [Batch] {
        let batch = configuration.batch
        let drawn = Drawn(count: batch)
        let (rows, configuration, width) = (rows, configuration, lanes.layout.configuration.maxDepth)
        DispatchQueue.concurrentPerform(iterations: configuration.threads) { part in
            let share = (batch * part / configuration.threads)..<(batch * (part + 1) / configuration.threads)
            do {
                let found = try share.map { place throws(TaskError) in
                    let index = UInt64(step - 1) * UInt64(batch) + UInt64(place)
                    return Self.sequence(
                        try rows.row(at: index, size: nil), index, configuration.variant, maxDepth: width,
                        seed: configuration.seed)
                }
                drawn.store(found, from: share.lowerBound)
            } catch {
                drawn.fail(error)
            }
        }
        return try drawn.sequences()
    }

    private static func sequence(
        _ row: Row, _ index: UInt64, _ variant: ModelConfiguration.DeciderKind, maxDepth: Int, seed: UInt64
    ) -> Batch {
        var batch = Batch(row)
        var noise = Noise(seed: seed, purpose: .depths, index: index)
        switch variant {
        case .early: batch.noise = (0..<(row.tokens.count * maxDepth)).map { _ in noise.gumbel() }
        case .online: batch.noise = (0..<row.tokens.count).map { _ in noise.uniform() }
        }
        return batch
    }

    // MARK: Evaluation and saving

    /// Accuracy and depth on the validation rows, depths decided as in serving.
    private func evaluate() -> [String: MetricsRecord.Difficulty] {
        let objective = Objective(lambda: 0, prior: prior, temperature: 1, answers: 1, validRows: 1)
        let results = lanes.run(
            validation.map(Batch.init), objective, depth: .inferred(threshold: 0.5), learning: false)
        var table = DepthTable(task)
        for (row, result) in zip(validation, results) {
            table.add(row, predictions: result.predictions, depths: result.depths)
        }
        return Dictionary(
            uniqueKeysWithValues: table.entries.map { difficulty, entry in
                (
                    String(difficulty),
                    MetricsRecord.Difficulty(
                        accuracy: entry.accuracy, answerDepth: entry.answerMeanDepth,
                        questionDepth: entry.questionMeanDepth, meanDepth: entry.meanDepth)
                )
            })
    }

    /// State first, so that a kill between the two files leaves one to go on from; then the servable checkpoint.
    private func save() throws {
        guard (0..<lanes.layout.count).allSatisfy({ lanes.weights[$0].isFinite }) else {
            throw TrainingError(
                "step \(step): a weight is not a finite number; the last good state is in \(directory); "
                    + "go on from it with --resume and a lower --learning-rate")
        }
        let state = TrainingState(step: step, accuracy: schedule.accuracy, learnedAt: schedule.learnedAt)
        try TrainingState.save(state, lanes, optimizer, in: directory)
        try CheckpointWriter.write(
            lanes.layout.configuration, tensors: lanes.layout.tensors(of: lanes.weights),
            vocabulary: task.vocabulary, to: directory)
    }
}

/// Keeps a second trainer out of a run's folder as long as it lives.
private final class FolderLock {
    private let descriptor: Int32

    init(_ directory: String) throws {
        descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw TrainingError("cannot open \(directory): \(String(cString: strerror(errno)))")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw TrainingError("another process trains in \(directory); wait for it or choose another --out")
        }
    }

    /// Unlocked first: a process being started has the descriptor too until it executes.
    deinit {
        flock(descriptor, LOCK_UN)
        close(descriptor)
    }
}

/// The rows of a step as the threads draw them.
private final class Drawn: @unchecked Sendable {  // guarded by the lock
    private let lock = NSLock()
    private var found: [Batch]
    private var failure: (any Error)?

    init(count: Int) { found = [Batch](repeating: Batch(), count: count) }

    func store(_ batches: [Batch], from first: Int) {
        lock.withLock { found.replaceSubrange(first..<(first + batches.count), with: batches) }
    }

    func fail(_ error: any Error) { lock.withLock { failure = error } }

    func sequences() throws -> [Batch] {
        try lock.withLock {
            if let failure { throw failure }
            return found
        }
    }
}

extension ParameterLayout {
    /// The tensors of another checkpoint, but a fresh output of the decider: it starts out at K again, and that of an
    /// early decider has another shape than an online one's. Throws when any other tensor differs in shape.
    func adopt(_ checkpoint: Checkpoint, fresh: [Float]) throws -> [Float] {
        var weights = fresh
        for tensor in tensors where !tensor.name.hasPrefix("decider.out") {
            weights.replaceSubrange(tensor.range, with: try checkpoint.floats(tensor.name, shape: tensor.shape))
        }
        return weights
    }
}
