import Model
import Testing

@Suite("A rule turns a distribution over depths into a depth")
struct DepthRuleTests {
    /// The mean of what is not a number was made a whole one, which ended the process.
    @Test("What is no distribution takes every iteration the rule allows", arguments: [Float.nan, .infinity])
    func notFinite(value: Float) {
        let rule = DepthRule(policy: .mean, minimum: 2, maximum: 4)
        #expect(rule.depth(of: [value, 0, 0, 0, 0, 0]) == 4)
    }

    @Test("The mean is rounded to the nearest depth, halves up, and clamped")
    func mean() {
        let rule = DepthRule(policy: .mean, minimum: 2, maximum: 4)
        #expect(rule.depth(of: [0, 0.5, 0.5, 0, 0, 0] as [Float]) == 3)
        #expect(rule.depth(of: [1, 0, 0, 0, 0, 0] as [Float]) == 2)
        #expect(rule.depth(of: [0, 0, 0, 0, 0, 1] as [Float]) == 4)
    }
}
