import Model
import Proto

extension Anira_Worker_V1_DepthRule {
    /// Whether its depths are those of a model of so many.
    public func fits(maxDepth: Int) -> Bool { minimum >= 1 && minimum <= maximum && maximum <= maxDepth }
}

extension DepthRule {
    /// The rule as the Router sent it.
    public init(_ wire: Anira_Worker_V1_DepthRule) {
        let policy: Policy =
            switch wire.rule {
            case .fixed, .UNRECOGNIZED: .fixed
            case .perToken: .perToken
            case .argmax: .argmax
            case .cdf: .cdf
            case .mean: .mean
            }
        self.init(
            policy: policy, value: Int(wire.value), threshold: wire.threshold, minimum: Int(wire.minimum),
            maximum: Int(wire.maximum))
    }
}
