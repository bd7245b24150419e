/// How deep a token goes: one policy with its bounds, resolved against a checkpoint (model.md, "Shape").
public struct DepthRule: Sendable, Equatable {
    public enum Policy: String, Sendable, CaseIterable {
        case fixed
        case perToken = "per_token"
        /// Early: the most probable depth, the first of equals.
        case argmax
        /// The first depth at which the cumulative probability reaches the threshold.
        case cdf
        /// Early: the expected depth, rounded to the nearest, halves up.
        case mean
    }

    public var policy: Policy
    /// fixed: the depth.
    public var value: Int
    /// cdf: q, 0…1.
    public var threshold: Float
    /// Clamp of any policy's result, 1…K.
    public var minimum: Int
    public var maximum: Int

    public init(policy: Policy, value: Int = 1, threshold: Float = 0.5, minimum: Int = 1, maximum: Int) {
        self.policy = policy
        self.value = value
        self.threshold = threshold
        self.minimum = minimum
        self.maximum = maximum
    }

    public func clamped(_ depth: Int) -> Int { Swift.min(Swift.max(depth, minimum), maximum) }

    /// Depth from an early decider's distribution p(1…K).
    public func depth(of p: some Collection<Float>) -> Int {
        switch policy {
        case .argmax:
            let best = p.max() ?? 0
            return clamped((p.enumerated().first { $1 == best }?.offset ?? 0) + 1)
        case .cdf:
            var sum: Float = 0
            let index = p.enumerated().first { _, value in
                sum += value
                return sum >= threshold
            }
            return clamped((index?.offset ?? p.count - 1) + 1)
        case .mean:
            let expected = p.enumerated().reduce(Float(0)) { $0 + Float($1.offset + 1) * $1.element }
            // Weights that overflow decide nothing: all iterations.
            return expected.isFinite ? clamped(Int((expected + 0.5).rounded(.down))) : clamped(maximum)
        case .fixed, .perToken:
            return clamped(value)
        }
    }
}

extension ModelConfiguration {
    /// The checkpoint's own rule: argmax for an early decider, cdf 0.5 for an online one.
    public var defaultRule: DepthRule {
        DepthRule(policy: decider == .early ? .argmax : .cdf, threshold: 0.5, maximum: maxDepth)
    }

    /// Names of the policies this checkpoint serves.
    public var policies: [String] {
        ["model"] + DepthRule.Policy.allCases.filter(supports).map(\.rawValue)
    }

    /// Whether the checkpoint's decider can carry the policy.
    public func supports(_ policy: DepthRule.Policy) -> Bool {
        decider == .early || (policy != .argmax && policy != .mean)
    }
}

/// The running sum of an online decider's exit probabilities for one token (model.md, "Shape").
public struct OnlineExit: Sendable {
    private var survival: Float = 1
    private var cumulative: Float = 0

    public init() {}

    /// Takes λ after iteration `depth` (nil at K: what remains) and returns p(depth) and whether the token leaves.
    public mutating func advance(_ lambda: Float?, depth: Int, rule: DepthRule) -> (p: Float, leaves: Bool) {
        let p = lambda.map { $0 * survival } ?? survival
        survival *= 1 - (lambda ?? 1)
        cumulative += p
        let reached = lambda == nil || cumulative >= rule.threshold
        return (p, (reached && depth >= rule.minimum) || depth >= rule.maximum)
    }
}
