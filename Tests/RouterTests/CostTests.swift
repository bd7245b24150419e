import Foundation
import Proto
import Router
import Testing

@Suite("Requests are admitted and placed by what they cost")
struct CostTests {
    /// A suite that was seen to work: golden model of one prelude, core and coda layer.
    private func measured(_ backlog: Double, workers: [StageKind] = StageKind.allCases) -> Suite {
        var suite = Suite(workers: workers) {
            $0.limits.backlogSeconds = backlog
            ($0.limits.measuredRequests, $0.limits.measuredIntervals) = (1, 1)
        }
        // One that stays, so that there is always something to do.
        suite.generate("open", prompt(1), new: 0) { $0.generate.depth.fix(1) }
        _ = suite.take("decider")
        suite.pass(ms: 250)
        // Ten positions of depth 2 in a second: 40 layer passes.
        suite.generate("first", prompt(10), new: 0) { $0.generate.depth.fix(2) }
        suite.run()
        suite.pass(ms: 1000)
        return suite
    }

    @Test("More work than the backlog allows is answered OVERLOADED, with the time until there is room")
    func backlog() {
        var suite = measured(10)
        // 4 layer passes a position: 50 of them take 5 s.
        suite.generate("a", prompt(20), new: 30) { $0.generate.depth.fix(2) }
        suite.generate("b", prompt(20), new: 60) { $0.generate.depth.fix(2) }
        #expect(suite.endings("a").isEmpty)
        #expect(suite.ending("b").error.code == "OVERLOADED")
        #expect((2000...4500).contains(suite.ending("b").error.retryAfterMs))
        // As many positions, half as deep.
        suite.generate("c", prompt(20), new: 30) { $0.generate.depth.fix(1) }
        #expect(suite.endings("c").isEmpty)
        suite.run()
        suite.generate("b", prompt(20), new: 60) { $0.generate.depth.fix(2) }
        suite.run()
        #expect(suite.ending("b").completed.tokens.count == 60)
    }

    @Test("A request too large for the backlog runs when it is alone")
    func alone() {
        var suite = measured(1)
        suite.send(.cancel("open", id: "c"))
        suite.generate("a", prompt(20), new: 60)
        suite.run()
        #expect(suite.ending("a").completed.tokens.count == 60)
    }

    @Test("New tokens beyond the model's positions cost nothing")
    func bounded() {
        var suite = measured(1000)
        suite.generate("a", prompt(20), new: .max) { $0.generate.depth.fix(1) }
        suite.generate("b", prompt(20), new: .max) { $0.generate.depth.fix(1) }
        #expect(suite.endings("b").isEmpty)
    }

    @Test("Before anything was measured nothing is refused for its cost")
    func unmeasured() {
        var suite = Suite { $0.limits.backlogSeconds = 0.001 }
        suite.generate("a", prompt(20), new: 40)
        suite.generate("b", prompt(20), new: 40)
        suite.run()
        #expect(suite.ending("b").completed.tokens.count == 40)
    }

    @Test("A session goes to the worker that owes the fewest layer passes, not the fewest requests")
    func placement() {
        var suite = Suite(workers: [.decider, .coda])
        suite.connect("core-a", .core)
        suite.connect("core-b", .core)
        suite.generate("long", prompt(20), new: 40) { $0.generate.depth.fix(4) }
        suite.answer("decider", suite.take("decider"))
        for id in ["short", "shorter"] {
            suite.generate(id, prompt(3), new: 2) { $0.generate.depth.fix(1) }
            suite.answer("decider", suite.take("decider"))
        }
        #expect(suite.take("core-a").count == 1)
        #expect(suite.take("core-b").count == 2)
    }
}

extension Anira_V1_Depth {
    fileprivate mutating func fix(_ depth: Int32) { (policy, value) = ("fixed", depth) }
}
