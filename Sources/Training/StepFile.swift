import Foundation
import Model

/// A training step computed by another implementation: inputs with their noise, losses and every gradient
/// (model.md, "Checkpoints"). `anira train verify` compares ours with it.
public struct StepFile {
    /// Largest ‖Δ‖ / ‖g‖ of a tensor, and relative error of a loss, that passes.
    public static let tolerance = 1e-4

    let path: String
    let file: SafetensorsFile
    let sequences: Int
    let length: Int
    /// One batch of a single sequence each, noise included.
    let rows: [Batch]
    let valid: [Bool]
    let objective: Objective

    /// Reads inputs and objective; errors name the tensor.
    public init(path: String, for checkpoint: Checkpoint) throws {
        let c = checkpoint.configuration
        let file = try SafetensorsFile(path: path)
        guard let shape = file.shape(of: "tokens"), shape.count == 2, shape[0] > 0,
            (1...c.maxPositionEmbeddings).contains(shape[1])
        else {
            throw TrainingError(
                "\(path): 'tokens' must be [rows, length ≤ \(c.maxPositionEmbeddings)], found "
                    + "\(file.shape(of: "tokens") ?? [])")
        }
        let tokens = try file.integers("tokens", shape: shape)
        guard tokens.allSatisfy({ (0..<c.vocabSize).contains($0) }) else {
            throw TrainingError("\(path): 'tokens' holds ids outside 0…\(c.vocabSize - 1)")
        }
        let valid = try file.numbers("valid", shape: shape).map { $0 != 0 }
        let answer = try file.numbers("answer", shape: shape).map { $0 != 0 }
        let width = c.decider == .early ? c.maxDepth : 1
        let noise = try file.floats("noise", shape: c.decider == .early ? shape + [width] : shape)
        let ours = Set(ParameterLayout(c).tensors.map { "grad.\($0.name)" })
        if let foreign = file.names.filter({ $0.hasPrefix("grad.") && !ours.contains($0) }).min() {
            throw TrainingError("\(path): '\(foreign)' is of no tensor of the model; compare with the model it is of")
        }
        (self.path, self.file, self.valid) = (path, file, valid)
        (sequences, length) = (shape[0], shape[1])
        let length = shape[1]
        rows = (0..<shape[0]).map { sequence in
            let range = (sequence * length)..<((sequence + 1) * length)
            var batch = Batch()
            batch.append(
                tokens: tokens[range].map(Int32.init), answer: Array(answer[range]), valid: Array(valid[range]))
            batch.noise = Array(noise[(range.lowerBound * width)..<(range.upperBound * width)])
            return batch
        }
        objective = try Self.objective(file, path, c, rows: rows, valid: valid)
    }

    private static func objective(
        _ file: SafetensorsFile, _ path: String, _ c: ModelConfiguration, rows: [Batch], valid: [Bool]
    ) throws -> Objective {
        func number(_ key: String, in range: ClosedRange<Float>) throws -> Float {
            guard let text = file.metadata[key], let value = Float(text), range.contains(value) else {
                throw TrainingError(
                    "\(path): metadata '\(key)' must be a number in \(range.lowerBound)…\(range.upperBound)")
            }
            return value
        }
        guard let form = DepthPrior.Form(rawValue: file.metadata["prior_form"] ?? "ratio") else {
            throw TrainingError("\(path): metadata 'prior_form' must be ratio or rate")
        }
        let answers = rows.reduce(0) { $0 + $1.targets.count { $0 >= 0 } }
        return Objective(
            lambda: try number("lambda", in: 0...1e6),
            prior: DepthPrior(gamma: try number("prior_ratio", in: 1e-3...1e3), form: form, maxDepth: c.maxDepth),
            temperature: file.metadata["tau"] == nil ? 1 : try number("tau", in: 1e-3...1e3), answers: answers,
            validRows: valid.count { $0 })
    }

    /// Runs the step and compares. threads: lanes, at least 1.
    public func verify(_ checkpoint: Checkpoint, threads: Int) throws -> Comparison {
        let layout = ParameterLayout(checkpoint.configuration)
        let weights = try layout.load(checkpoint)
        let lanes = try Lanes(
            checkpoint.configuration, weights: weights, count: threads, microBatch: 4 * length, longest: length)
        let results = lanes.run(rows, objective, depth: .sampled, learning: true)
        return try compare(results, lanes, checkpoint.configuration.maxDepth)
    }

    private func compare(_ results: [PassResult], _ lanes: Lanes, _ maxDepth: Int) throws -> Comparison {
        let crossEntropy = results.reduce(0) { $0 + $1.crossEntropy.reduce(0) { $0 + Double($1) } }
        let divergence = results.reduce(0) { $0 + $1.divergence.reduce(0) { $0 + Double($1) } }
        let depths = results.flatMap(\.depths)
        let expected = try file.integers("depths", shape: [sequences, length])
        let p = try file.floats("exit_distribution", shape: [sequences, length, maxDepth])
        let found = results.flatMap(\.exitDistribution)
        var distributionError: Float = 0
        for row in valid.indices where valid[row] {
            for t in (row * maxDepth)..<((row + 1) * maxDepth) {
                distributionError = max(distributionError, abs(p[t] - found[t]))
            }
        }
        return Comparison(
            ce: Double(crossEntropy) / Double(max(objective.answers, 1)),
            kl: Double(divergence) / Double(max(objective.validRows, 1)),
            expectedCE: try scalar("loss.ce"), expectedKL: try scalar("loss.kl"),
            depths: (0..<sequences).map { Array(depths[($0 * length)..<(($0 + 1) * length)]) },
            depthsDiffering: valid.indices.count { valid[$0] && depths[$0] != expected[$0] },
            distributionError: Double(distributionError),
            gradients: try lanes.layout.tensors.map { tensor in
                let reference = try file.floats("grad.\(tensor.name)", shape: tensor.shape)
                return Comparison.Gradient(tensor.name, reference, lanes.gradients + tensor.range.lowerBound)
            })
    }

    private func scalar(_ name: String) throws -> Double {
        Double(try file.floats(name, shape: file.shape(of: name) == [] ? [] : [1])[0])
    }

    /// Ours beside the file's.
    public struct Comparison: Encodable, Sendable {
        public struct Gradient: Encodable, Sendable {
            public let name: String
            /// ‖ours − theirs‖ / ‖theirs‖; of the norm itself when theirs is zero.
            public let error: Double
            /// ‖theirs‖.
            public let norm: Double

            init(_ name: String, _ reference: [Float], _ ours: UnsafePointer<Float>) {
                var (difference, square) = (0.0, 0.0)
                for (index, value) in reference.enumerated() {
                    let delta = Double(ours[index]) - Double(value)
                    difference += delta * delta
                    square += Double(value) * Double(value)
                }
                self.name = name
                norm = square.squareRoot()
                error = square > 0 ? (difference / square).squareRoot() : difference.squareRoot()
            }
        }

        public let ce, kl, expectedCE, expectedKL: Double
        /// Depth of every position, [rows][length].
        public let depths: [[Int]]
        public let depthsDiffering: Int
        /// Largest difference of an exit probability at a valid position.
        public let distributionError: Double
        public let gradients: [Gradient]

        /// Relative errors of the two losses.
        public var lossErrors: (ce: Double, kl: Double) {
            (abs(ce - expectedCE) / max(abs(expectedCE), 1e-3), abs(kl - expectedKL) / max(abs(expectedKL), 1e-3))
        }

        /// Everything within `StepFile.tolerance`, depths exact.
        public var passes: Bool {
            depthsDiffering == 0 && distributionError <= tolerance && lossErrors.ce <= tolerance
                && lossErrors.kl <= tolerance
                && gradients.allSatisfy { $0.error <= tolerance }
        }

        enum CodingKeys: String, CodingKey {
            case ce, kl, depths, gradients
            case expectedCE = "expected_ce"
            case expectedKL = "expected_kl"
            case depthsDiffering = "depths_differing"
            case distributionError = "exit_distribution_error"
        }
    }
}

extension ParameterLayout {
    /// The checkpoint's weights in the order of the layout.
    public func load(_ checkpoint: Checkpoint) throws -> [Float] {
        var floats: [Float] = []
        floats.reserveCapacity(count)
        for tensor in tensors { floats += try checkpoint.floats(tensor.name, shape: tensor.shape) }
        return floats
    }
}
