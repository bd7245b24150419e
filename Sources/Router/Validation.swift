import Foundation
import Messaging
import Model
import Proto

/// A request refused before anything ran: the code, and a sentence that names the field.
public struct Refusal: Error, Equatable, Sendable {
    public let code: ErrorCode
    public let message: String
    /// OVERLOADED: when to try again.
    let retryAfterMS: Int?

    init(_ code: ErrorCode, _ message: String, retryAfterMS: Int? = nil) {
        self.code = code
        self.message = message
        self.retryAfterMS = retryAfterMS
    }

    static func invalid(_ field: String, _ problem: String) -> Refusal {
        Refusal(.invalidArgument, "\(field): \(problem)")
    }
}

/// Limits the Router holds requests to.
public struct RequestLimits: Sendable {
    /// Requests admitted and not ended; more are answered OVERLOADED.
    public var concurrentRequests = 1024
    /// Seconds of work admitted and not done, at the measured rate; more is answered OVERLOADED.
    public var backlogSeconds = 600.0
    /// The rate counts intervals with at least so many requests at both ends, and is known after so many of them.
    public var measuredRequests = 16
    public var measuredIntervals = 8
    /// Most requests whose answers are remembered for repeats and `result`.
    public var rememberedResults = 4096
    /// Most bytes of them.
    public var rememberedBytes = 64 << 20
    /// Most bytes of the rows or logits in one message, whose receivers take no larger frames.
    public var tensorBytes = Int(SocketOptions().maxFrameBytes)

    /// Most bytes of a message from a client, well beyond what a request to a model of so many positions needs: reading it takes
    /// the time of everyone.
    static func messageBytes(positions: Int) -> Int { (256 << 10) + 64 * positions }

    public init() {}
}

/// The checked content of a `generate` or `score`.
struct Job: Sendable {
    enum Kind: Sendable { case generate, score }

    var kind: Kind
    var tokens: [Int32]
    var rule: DepthRule
    /// per_token depths, one byte a position of this request, else empty.
    var depths: [UInt8] = []
    var maxNewTokens = 0
    var stopTokens: Set<Int32> = []
    var stream: Bool?
    var session = ""
    var sampling = SamplingRule()
    var wantsDistributions = false
    var wantsLogprobs = false
    var wantsLogits = false
}

/// Turns a request into a job, or refuses it naming the field. Knows the model, not the traffic.
struct Validator: Sendable {
    let configuration: ModelConfiguration
    let vocabulary: Vocabulary?
    /// Most bytes of logits in a reply.
    let tensorBytes: Int

    /// digest: of the request; draws depend on it where no seed is given, so that the same request draws the same again.
    func job(_ r: Anira_V1_Generate, _ digest: UInt64) throws -> Job {
        var job = Job(
            kind: .generate, tokens: try tokens(r.tokens, r.text, "generate", mayBeEmpty: !r.session.isEmpty),
            rule: configuration.defaultRule)
        job.maxNewTokens = r.hasMaxNewTokens ? Int(r.maxNewTokens) : 16
        guard job.maxNewTokens >= 0 else {
            throw Refusal.invalid("generate.max_new_tokens", "must be 0 or more, found \(r.maxNewTokens)")
        }
        for (index, token) in r.stopTokens.enumerated() { try check(token, "generate.stop_tokens[\(index)]") }
        job.stopTokens = Set(r.stopTokens)
        job.stream = r.hasStream ? r.stream : nil
        job.session = try name(r.session, "generate.session")
        (job.rule, job.depths) = try depth(
            r.depth, "generate.depth", job.tokens.count...(job.tokens.count + job.maxNewTokens))
        job.sampling = try sampling(r.sampling, digest)
        job.wantsDistributions = r.include.exitDistributions
        job.wantsLogprobs = r.include.logprobs
        guard !r.include.logits else {
            throw Refusal.invalid("generate.include.logits", "only score returns logits")
        }
        return job
    }

    func job(_ r: Anira_V1_Score) throws -> Job {
        var job = Job(
            kind: .score, tokens: try tokens(r.tokens, r.text, "score", mayBeEmpty: false),
            rule: configuration.defaultRule)
        (job.rule, job.depths) = try depth(r.depth, "score.depth", job.tokens.count...job.tokens.count)
        job.wantsDistributions = r.include.exitDistributions
        job.wantsLogits = r.include.logits
        let most = tensorBytes / (configuration.vocabSize * 4)
        guard !job.wantsLogits || job.tokens.count <= most else {
            throw Refusal.invalid(
                "score.include.logits",
                "of \(job.tokens.count) tokens over a vocabulary of \(configuration.vocabSize) are too large for a reply; "
                    + "at most \(most) tokens with logits")
        }
        return job
    }

    private func tokens(_ ids: [Int32], _ text: String, _ field: String, mayBeEmpty: Bool) throws -> [Int32] {
        guard ids.isEmpty || text.isEmpty else {
            throw Refusal.invalid("\(field).text", "give tokens or text, not both")
        }
        var tokens = ids
        if !text.isEmpty {
            guard let vocabulary else {
                throw Refusal.invalid(
                    "\(field).text", "this checkpoint has no vocabulary to read text with; send tokens")
            }
            do {
                tokens = try vocabulary.tokens(of: text)
            } catch let error as ModelError {
                throw Refusal(.invalidArgument, "\(field).\(error.message)")
            }
        }
        guard mayBeEmpty || !tokens.isEmpty else {
            throw Refusal.invalid("\(field).tokens", "at least one token is needed")
        }
        for (index, token) in tokens.enumerated() { try check(token, "\(field).tokens[\(index)]") }
        try checkLength(tokens.count, "\(field).tokens")
        return tokens
    }

    func checkLength(_ count: Int, _ field: String) throws {
        guard count <= configuration.maxPositionEmbeddings else {
            throw Refusal(
                .contextTooLong,
                "\(field): \(count) positions; this model holds \(configuration.maxPositionEmbeddings)")
        }
    }

    private func check(_ token: Int32, _ field: @autoclosure () -> String) throws {
        guard token >= 0, token < configuration.vocabSize else {
            throw Refusal.invalid(field(), "unknown token \(token); ids are 0…\(configuration.vocabSize - 1)")
        }
    }

    func name(_ name: String, _ field: String) throws -> String {
        guard name.utf8.count <= 64 else { throw Refusal.invalid(field, "at most 64 bytes, found \(name.utf8.count)") }
        return name
    }

    private func depth(
        _ r: Anira_V1_Depth, _ field: String, _ lengths: ClosedRange<Int>
    ) throws -> (DepthRule, [UInt8]) {
        var rule = configuration.defaultRule
        var depths: [UInt8] = []
        if !r.policy.isEmpty, r.policy != "model" {
            guard let policy = DepthRule.Policy(rawValue: r.policy), configuration.supports(policy) else {
                throw Refusal.invalid(
                    "\(field).policy",
                    "'\(r.policy.prefix(40))' is not served by this \(configuration.decider.rawValue)-decider model; "
                        + "use one of \(configuration.policies.joined(separator: ", "))")
            }
            rule.policy = policy
        }
        if r.hasValue {
            guard rule.policy == .fixed else { throw Refusal.invalid("\(field).value", "belongs to policy 'fixed'") }
        }
        if rule.policy == .fixed { rule.value = try level(r.hasValue ? r.value : nil, "\(field).value") }
        guard r.values.isEmpty || rule.policy == .perToken else {
            throw Refusal.invalid("\(field).values", "belongs to policy 'per_token'")
        }
        if rule.policy == .perToken {
            guard lengths.contains(r.values.count) else {
                let most = lengths.count > 1 ? ", at most \(lengths.upperBound) with those of new tokens" : ""
                throw Refusal.invalid(
                    "\(field).values",
                    "\(r.values.count) values for \(lengths.lowerBound) tokens; give one a token\(most)")
            }
            depths = try r.values.enumerated().map { UInt8(try level($1, "\(field).values[\($0)]")) }
        }
        if r.hasThreshold {
            guard rule.policy == .cdf else { throw Refusal.invalid("\(field).threshold", "belongs to policy 'cdf'") }
            guard r.threshold >= 0, r.threshold <= 1 else {
                throw Refusal.invalid("\(field).threshold", "must be 0…1, found \(r.threshold)")
            }
            rule.threshold = r.threshold
        }
        if r.hasMin { rule.minimum = try level(r.min, "\(field).min") }
        if r.hasMax { rule.maximum = try level(r.max, "\(field).max") }
        guard rule.minimum <= rule.maximum else {
            throw Refusal.invalid("\(field).min", "\(rule.minimum) is above max \(rule.maximum)")
        }
        return (rule, depths)
    }

    private func level(_ value: Int32?, _ field: @autoclosure () -> String) throws -> Int {
        guard let value else {
            throw Refusal.invalid(field(), "is needed for this policy: a depth of 1…\(configuration.maxDepth)")
        }
        guard value >= 1, value <= configuration.maxDepth else {
            throw Refusal.invalid(field(), "depth must be 1…\(configuration.maxDepth), found \(value)")
        }
        return Int(value)
    }

    private func sampling(_ r: Anira_V1_Sampling, _ digest: UInt64) throws -> SamplingRule {
        let field = "generate.sampling"
        guard r.temperature >= 0, r.temperature.isFinite else {
            throw Refusal.invalid("\(field).temperature", "must be 0 (greedy) or more, found \(r.temperature)")
        }
        guard r.topK >= 0 else { throw Refusal.invalid("\(field).top_k", "must be 0 (all) or more, found \(r.topK)") }
        let topP = r.hasTopP ? r.topP : 1
        guard topP > 0, topP <= 1 else {
            throw Refusal.invalid("\(field).top_p", "must be above 0 and at most 1, found \(topP)")
        }
        guard r.seed >= 0 else { throw Refusal.invalid("\(field).seed", "must be 0 or more, found \(r.seed)") }
        let seed = r.hasSeed ? UInt64(r.seed) : digest
        return SamplingRule(temperature: r.temperature, topK: Int(r.topK), topP: topP, seed: seed)
    }
}
