import Model
import Proto

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
