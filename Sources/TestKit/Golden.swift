import Foundation
import Model
import Proto

/// A golden case: a tiny checkpoint with the outputs of an independent implementation.
public struct Golden {
    /// Contents of `expected.json`.
    public struct Expected: Decodable {
        public let infer: [Inference]
        public let greedy: [Greedy]
    }

    /// One forward pass; depth, q and rule are overrides of the checkpoint's own rule.
    public struct Inference: Decodable {
        public let tokens: [Int32]
        public let depth: [Int32]?
        public let q: Float?
        public let rule: String?
        public let depths: [Int]
        public let exitDistribution: [[Float?]]
        public let logits: [[Float]]

        enum CodingKeys: String, CodingKey {
            case tokens, depth, q, rule, depths, logits
            case exitDistribution = "exit_distribution"
        }

        /// The same pass as a `score` request that asks for everything.
        public func request(id: String) -> ClientRequest {
            var request = ClientRequest()
            request.id = id
            request.score.tokens = tokens
            request.score.include.logits = true
            request.score.include.exitDistributions = true
            if let depth {
                request.score.depth.policy = "per_token"
                request.score.depth.values = depth
            } else if let q {
                request.score.depth.policy = rule ?? "cdf"
                request.score.depth.threshold = q
            }
            return request
        }
    }

    /// One greedy continuation; depths are of prompt and new tokens.
    public struct Greedy: Decodable {
        public let prompt: [Int32]
        public let newTokens: [Int32]
        public let depths: [Int]

        enum CodingKeys: String, CodingKey {
            case prompt, depths
            case newTokens = "new_tokens"
        }

        public func request(id: String) -> ClientRequest {
            var request = ClientRequest()
            request.id = id
            request.generate.tokens = prompt
            request.generate.maxNewTokens = Int32(newTokens.count)
            return request
        }
    }

    public let checkpoint: Checkpoint
    public let expected: Expected

    /// name: a folder of Tests/Golden.
    public init(_ name: String) throws {
        let folder = Golden.repository.appendingPathComponent("Tests/Golden/\(name)")
        checkpoint = try Checkpoint(directory: folder.path)
        let data = try Data(contentsOf: folder.appendingPathComponent("expected.json"))
        expected = try JSONDecoder().decode(Expected.self, from: data)
    }

    /// The root of this repository.
    public static let repository = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
}
