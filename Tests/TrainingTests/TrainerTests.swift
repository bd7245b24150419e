import Engine
import Foundation
import Model
import Proto
import Tasks
import Testing

@testable import Training

@Suite struct TrainerTests {
    private func train(_ c: TrainingConfiguration, in folder: String, resume: Bool = false, until: Int = .max) throws
        -> Trainer.Ending
    {
        var steps = 0
        return try Trainer(c, directory: folder, resume: resume).run(
            shouldStop: {
                steps += 1
                return steps > until
            }, report: { _ in })
    }

    private func file(_ folder: String, _ name: String) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(name)"))
    }

    @Test(arguments: [ModelConfiguration.DeciderKind.early, .online])
    func `stopping and going on gives the same bytes as one run`(variant: ModelConfiguration.DeciderKind) throws {
        let c = tinyTraining(variant)
        try withFolder { folder in
            let (whole, parts) = ("\(folder)/whole", "\(folder)/parts")
            let endings = [
                try train(c, in: whole), try train(c, in: parts, until: 3), try train(c, in: parts, resume: true),
            ]
            #expect(endings == [.finished, .stopped(step: 3), .finished])
            for name in ["model.safetensors", "state.safetensors", "config.json", "vocab.json"] {
                let (one, other) = (try file(whole, name), try file(parts, name))
                #expect(one == other, "\(name)")
            }
        }
    }

    @Test func `micro-batches change nothing but rounding`() throws {
        try withFolder { folder in
            for (name, size) in [("small", 16), ("large", 4096)] {
                var c = tinyTraining(.online, steps: 1)
                c.microBatch = size
                _ = try train(c, in: "\(folder)/\(name)")
            }
            let one = try Checkpoint(directory: "\(folder)/small"), other = try Checkpoint(directory: "\(folder)/large")
            let layout = ParameterLayout(one.configuration)
            for (a, b) in zip(try layout.load(one), try layout.load(other)) { #expect(abs(a - b) < 1e-4) }
        }
    }

    @Test func `a number that is not finite stops the run and leaves the last good state`() throws {
        try withFolder { folder in
            var c = tinyTraining(.early, steps: 2)
            _ = try train(c, in: folder)
            let good = try file(folder, "state.safetensors")
            c.steps = 40
            (c.learningRate, c.warmup, c.cooldown, c.clip) = (10, 0, 0, 1e6)
            c.saveEvery = 1000
            c.epsilon = 0
            c.weightDecay = 1
            #expect(throws: TrainingError.self) { try train(c, in: folder, resume: true) }
            let after = try file(folder, "state.safetensors")
            #expect(after == good)
            #expect(throws: Never.self) { try Checkpoint(directory: folder) }
        }
    }

    @Test(arguments: ["heads", "hiddenSize", "maxDepth"])
    func `a run whose configuration was edited into another model does not go on`(setting: String) throws {
        try withFolder { folder in
            var c = tinyTraining(.online, steps: 4)
            _ = try train(c, in: folder)
            let good = try file(folder, "model.safetensors")
            switch setting {
            case "heads": c.heads = 1
            case "hiddenSize": c.hiddenSize = 32
            default: c.maxDepth = 2
            }
            let error = #expect(throws: TrainingError.self) { try train(c, in: folder, resume: true) }
            #expect("\(try #require(error))".contains("is not of the model in config.json"))
            #expect(try file(folder, "model.safetensors") == good)
        }
    }

    @Test func `records follow the steps without gaps or repeats after going on`() throws {
        try withFolder { folder in
            let c = tinyTraining(.online)
            _ = try train(c, in: folder, until: 5)
            _ = try train(c, in: folder, resume: true)
            let text = String(decoding: try file(folder, MetricsLog.fileName), as: UTF8.self)
            let records = try text.split(separator: "\n").map {
                try JSONDecoder().decode(MetricsRecord.self, from: Data($0.utf8))
            }
            #expect(records.map(\.step) == [2, 3, 4, 6])
            #expect(records.map { $0.validation != nil } == [false, true, false, true])
            #expect(records.allSatisfy { abs($0.loss - $0.crossEntropy - Double($0.lambda) * $0.divergence) < 0.3 })
        }
    }

    @Test(arguments: [ModelConfiguration.DeciderKind.early, .online])
    func `the trainer sees the depths that serving takes`(variant: ModelConfiguration.DeciderKind) throws {
        try withFolder { folder in
            var c = tinyTraining(variant, steps: 20)
            c.depthBias = 0
            _ = try train(c, in: folder)
            let checkpoint = try Checkpoint(directory: folder)
            let layout = ParameterLayout(checkpoint.configuration)
            let lanes = try Lanes(
                checkpoint.configuration, weights: try layout.load(checkpoint), count: 2, microBatch: 64, longest: 16)
            let dataset = Dataset(task: try makeTask(.mano, options: c.taskOptions), split: .test, seed: 4)
            let rows = try (0..<20).map { try dataset.row(at: $0) }
            let objective = Objective(
                lambda: 0, prior: DepthPrior(gamma: 1, form: .ratio, maxDepth: 3), temperature: 1, answers: 1,
                validRows: 1)
            let trained = lanes.run(rows.map(Batch.init), objective, depth: .inferred(threshold: 0.5), learning: false)
            let served = try LocalEngine(checkpoint).run(
                rows.enumerated().map { index, row in
                    .with { ($0.id, $0.score.tokens) = ("\(index)", row.tokens) }
                })
            #expect(trained.map(\.depths) == served.map { $0.reply.scored.depths.map(Int.init) })
            for (row, (ours, theirs)) in zip(rows, zip(trained, served)) {
                let logprob = theirs.reply.scored.logprobs[row.targets[0] - 1]
                #expect(abs(ours.crossEntropy[0] + logprob) < 1e-4)
            }
        }
    }

    @Test func `a run starts from another checkpoint's weights with a fresh decision`() throws {
        try withFolder { folder in
            _ = try train(tinyTraining(.online), in: "\(folder)/online")
            let online = try Checkpoint(directory: "\(folder)/online")
            var c = tinyTraining(.early, steps: 1)
            (c.learningRate, c.finalLearningRate, c.weightDecay) = (1e-9, 0, 0)
            _ = try Trainer(c, directory: "\(folder)/early", resume: false, initial: online).run(
                shouldStop: { false }, report: { _ in })
            let early = try Checkpoint(directory: "\(folder)/early")
            for name in ["core.layers.0.mlp.up_proj.weight", "embed_tokens.weight", "decider.up.weight"] {
                let shape = ParameterLayout(early.configuration).tensors.first { $0.name == name }!.shape
                for (a, b) in zip(try online.floats(name, shape: shape), try early.floats(name, shape: shape)) {
                    #expect(abs(a - b) < 1e-6)
                }
            }
            #expect(try early.floats("decider.out.bias", shape: [3])[2] > 3.9)
            c.intermediateSize = 32
            #expect(throws: TrainingError.self) {
                try Trainer(c, directory: "\(folder)/other", resume: false, initial: online)
            }
        }
    }

    /// Angles, norms, heads and words that a new run has differently were changed without a word.
    @Test(arguments: [("rope_theta", "500000"), ("rms_norm_eps", "0.01"), ("vocab.json", "\"x\"")])
    func `weights that mean something else are no start`(what: String, value: String) throws {
        try withFolder { folder in
            var c = tinyTraining(.online)
            _ = try train(c, in: "\(folder)/online")
            let path = "\(folder)/online/\(what == "vocab.json" ? what : "config.json")"
            let text = try String(contentsOfFile: path, encoding: .utf8)
            let changed =
                what == "vocab.json"
                ? text.replacing("\"<bos>\"", with: value)
                : text.replacing(/"(rope_theta|rms_norm_eps)" ?: ?[0-9.e-]+/) {
                    $0.output.1 == what ? "\"\(what)\": \(value)" : $0.output.0
                }
            #expect(changed != text)
            try changed.write(toFile: path, atomically: true, encoding: .utf8)
            c.steps = 1
            let error = #expect(throws: TrainingError.self) {
                try Trainer(
                    c, directory: "\(folder)/other", resume: false,
                    initial: try Checkpoint(directory: "\(folder)/online"))
            }
            #expect("\(try #require(error))".contains(what == "vocab.json" ? "token 1" : what))
        }
    }

    @Test func `a run too short for its schedule is told so`() {
        var c = tinyTraining(.early)
        #expect(c.remarks.isEmpty)
        (c.warmup, c.learnAtMost) = (500, 6)
        #expect(c.remarks.count == 2)
        #expect(c.remarks[0].contains("--warmup") && c.remarks[1].contains("--learn-at-most"))
    }

    @Test(arguments: ["steps", "learning-rate", "num_attention_heads", "max-length", "threads", "hops"])
    func `a setting that makes no sense is named`(setting: String) throws {
        var c = tinyTraining(.early)
        switch setting {
        case "steps": c.steps = 0
        case "learning-rate": c.learningRate = .nan
        case "num_attention_heads": c.heads = 3
        case "max-length": c.maxLength = 4
        case "threads": c.threads = 65
        default: c.taskOptions.hops = 3
        }
        let error = #expect(throws: (any Error).self) { try c.check() }
        #expect("\(try #require(error))".contains(setting == "num_attention_heads" ? "heads" : setting))
    }
}

@Suite struct ScheduleTests {
    @Test func `the rate warms up stays and cools down`() {
        var c = tinyTraining(.early, steps: 100)
        (c.warmup, c.cooldown, c.learningRate, c.finalLearningRate) = (10, 20, 1, 0.5)
        let schedule = Schedule(c)
        #expect(schedule.learningRate(5) == 0.5)
        #expect(schedule.learningRate(50) == 1)
        #expect(schedule.learningRate(90) == 0.75)
        #expect(schedule.learningRate(100) == 0.5)
    }

    @Test func `lambda that does not wait still rises from where the run goes on`() {
        var c = tinyTraining(.early, steps: 1000)
        (c.lambda, c.learnAtMost, c.lambdaRamp) = (0.2, 0, 10)
        #expect(abs(Schedule(c, step: 100).lambda(105) - 0.1) < 1e-6)
        #expect(Schedule(c).lambda(105) == 0.2)
    }

    @Test func `lambda waits until the answers are right`() {
        var c = tinyTraining(.early, steps: 1000)
        (c.lambda, c.learnUntil, c.learnAtMost, c.lambdaRamp) = (0.2, 0.8, 900, 10)
        var schedule = Schedule(c)
        for step in 1...50 { schedule.observe(step, accuracy: 0.5) }
        #expect(schedule.lambda(50) == 0)
        var step = 50
        while schedule.learnedAt == nil, step < 900 {
            step += 1
            schedule.observe(step, accuracy: 1)
        }
        #expect(step < 200)
        #expect(abs(schedule.lambda(step + 5) - 0.1) < 1e-6)
        #expect(schedule.lambda(step + 50) == 0.2)
    }
}

@Suite struct ExitTests {
    @Test(arguments: DepthPrior.Form.allCases)
    func `KL is rate times mean depth less entropy plus log Z`(form: DepthPrior.Form) {
        let p: [Float] = [0.1, 0.4, 0.3, 0.2]
        let prior = DepthPrior(gamma: 1.5, form: form, maxDepth: 4)
        let rate = form == .ratio ? log(1.5) : 1.5
        let mean = p.indices.reduce(0.0) { $0 + Double($1 + 1) * Double(p[$1]) }
        let entropy = p.reduce(0.0) { $0 - Double($1) * log(Double($1)) }
        let logZ = log((1...4).reduce(0.0) { $0 + exp(-rate * Double($1)) })
        #expect(abs(Double(prior.divergence(p)) - (rate * mean - entropy + logZ)) < 1e-6)
    }

    @Test func `gamma one is the uniform prior`() {
        let prior = DepthPrior(gamma: 1, form: .ratio, maxDepth: 5)
        #expect(prior.logProbabilities.allSatisfy { abs($0 + logf(5)) < 1e-6 })
    }

    @Test func `an online distribution sums to one whatever the logits`() throws {
        let arena = try Arena(floats: 4096)
        let exits = OnlineExits(rows: 1, maxDepth: 4, arena: arena)
        for (t, logit) in [Float(-30), 0.3, 25].enumerated() { _ = exits.observe(0, iteration: t + 1, logit: logit) }
        #expect(abs((0..<4).reduce(Float(0)) { $0 + exits.p[$1] } - 1) < 1e-6)
    }
}
