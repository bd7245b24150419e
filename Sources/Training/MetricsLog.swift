import Analysis
import Foundation
import Model

/// One line of `metrics.jsonl`: the means since the line before, and on evaluations accuracy and depth by difficulty.
public struct MetricsRecord: Codable, Sendable {
    public struct Difficulty: Codable, Sendable {
        public var accuracy: Double
        /// Mean depth where the answer is predicted, of the question's tokens, and of all positions.
        public var answerDepth, questionDepth, meanDepth: Double

        enum CodingKeys: String, CodingKey {
            case accuracy
            case answerDepth = "answer_depth"
            case questionDepth = "question_depth"
            case meanDepth = "mean_depth"
        }
    }

    public var step: Int
    /// Cross-entropy an answer token, KL a position, and CE + λ KL, in nats.
    public var crossEntropy, divergence, loss: Double
    public var lambda, learningRate: Float
    public var gradientNorm, tokensPerSecond: Double
    /// Of training rows, with sampled depths.
    public var accuracy, meanDepth: Double
    /// Of validation rows, with the depths that serving takes; by difficulty.
    public var validation: [String: Difficulty]?

    enum CodingKeys: String, CodingKey {
        case step, loss, lambda, accuracy, validation
        case crossEntropy = "ce"
        case divergence = "kl"
        case learningRate = "learning_rate"
        case gradientNorm = "gradient_norm"
        case tokensPerSecond = "tokens_per_second"
        case meanDepth = "mean_depth"
    }
}

/// The file of a run's records. Every line is written at once; going on after a stop first drops the lines past it.
struct MetricsLog {
    static let fileName = "metrics.jsonl"
    private let path: String

    init(directory: String) { path = "\(directory)/\(Self.fileName)" }

    /// Keeps the records up to and including `step`.
    func truncate(after step: Int) throws {
        guard FileManager.default.fileExists(atPath: path) else { return }
        guard let data = FileManager.default.contents(atPath: path) else {
            throw TrainingError("cannot read \(path); it has to be a file that this user may read")
        }
        let lines = data.split(separator: 0x0A)
        struct Step: Decodable { let step: Int }
        let decoder = JSONDecoder()
        let kept = try lines.filter { line in
            do {
                return try decoder.decode(Step.self, from: line).step <= step
            } catch is DecodingError {
                return false  // the line that a kill cut short
            }
        }
        try AtomicFile.write(Data(kept.map { $0 + [0x0A] }.joined()), to: path)
    }

    func append(_ record: MetricsRecord) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        var line = try encoder.encode(record)
        line.append(0x0A)
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        defer { if descriptor >= 0 { close(descriptor) } }
        guard descriptor >= 0, line.withUnsafeBytes({ writeAll($0, to: descriptor) }) else {
            throw TrainingError(
                "cannot write \(path): \(String(cString: strerror(errno))); the last saved state is in place, "
                    + "go on from it with --resume")
        }
    }
}
