import Messaging
import Proto
import Router
import Testing

/// Rows that go from worker to worker, and results that come on connections of their own.
@Suite("Hand-over between workers")
struct HandOverTests {
    @Test("The only chunk under way is told the rest of its way")
    func way() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        let work = suite.take("decider")
        #expect(work.count == 1)
        let onward = work[0].item.onward
        #expect(onward.core.worker == "core#1" && onward.coda.worker == "coda#1")
        #expect(onward.codaWork.sample)
        suite.answer("decider", work)
        #expect(suite.players["core"]!.inbox.count == 1)
        #expect(suite.take("core").count == 1)
    }

    @Test("Every token goes that way, and the request ends as without")
    func whole() {
        var suites = [Suite(handsOver: false), Suite(handsOver: true)]
        for index in suites.indices {
            suites[index].generate("r", prompt(5), new: 6) { $0.generate.include.exitDistributions = true }
            suites[index].send(.score("s", prompt(9)))
            suites[index].run()
        }
        #expect(suites[0].ending("r").completed.tokens == suites[1].ending("r").completed.tokens)
        #expect(suites[0].ending("r").completed.exitDistributions == suites[1].ending("r").completed.exitDistributions)
        #expect(suites[0].ending("s").scored.logprobs == suites[1].ending("s").scored.logprobs)
        #expect(suites[1].counters.lateResults == 0)
    }

    @Test("Chunks that others of the request may overtake come by way of the Router")
    func several() {
        var suite = Suite(chunk: 2, handsOver: true)
        suite.generate("r", prompt(6), new: 2)
        let work = suite.take("decider")
        #expect(work.count == 3)
        #expect(work.allSatisfy { !$0.item.hasOnward })
        suite.answer("decider", work)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 2)
    }

    @Test("A later stage's result waits for those before it: nothing is said before all are committed")
    func ahead() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        let decided = suite.compute("decider", suite.take("decider"))
        let iterated = suite.compute("core", suite.take("core"))
        let drawn = suite.compute("coda", suite.take("coda"))
        suite.deliver("coda", drawn)
        suite.deliver("core", iterated)
        #expect(suite.streamed("r").isEmpty)
        suite.deliver("decider", decided)
        #expect(suite.streamed("r").count == 1)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
        #expect(suite.counters.lateResults == 0)
    }

    @Test("Rows handed to a worker that has gone are handed out again", arguments: [StageKind.core, .coda])
    func gone(_ stage: StageKind) {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        suite.work(until: stage)
        suite.connect(stage.rawValue, stage, incarnation: 2)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
        #expect(suite.endings("r").count == 1)
    }

    @Test("Rows that never arrived are handed out again once their worker says it holds nothing")
    func lost() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        suite.losesHandOvers = true
        suite.answer("decider", suite.take("decider"))
        suite.losesHandOvers = false
        suite.run()
        #expect(suite.endings("r").isEmpty)
        for _ in 0..<6 {
            suite.now += 250_000_000
            suite.beat()
            suite.feed(.tick)
        }
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
        #expect(suite.counters.redeliveries == 1)
    }

    /// Rows that are handed over are booked when they have arrived: all sessions of a burst went to one core.
    @Test("A burst of sessions is shared out evenly", arguments: [false, true])
    func shared(_ handsOver: Bool) {
        var suite = Suite(handsOver: handsOver)
        suite.connect("core-b", .core)
        for index in 0..<8 { suite.generate("r\(index)", prompt(5), new: 2) }
        suite.run()
        let sessions = ["core", "core-b"].map { Set(suite.players[$0]!.computed.map(\.session)).count }
        #expect(sessions == [4, 4])
    }

    @Test("cancel reaches every worker that may be handed rows")
    func cancel() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        suite.flush()
        suite.send(.cancel("r", id: "c"))
        #expect(suite.cancels.count == 3)
    }

    @Test("A worker without an inbox gets its rows by way of the Router", arguments: StageKind.allCases)
    func noInbox(_ stage: StageKind) {
        var suite = Suite(workers: StageKind.allCases.filter { $0 != stage }, handsOver: true)
        suite.connect(stage.rawValue, stage) { $0.inbox = "" }
        suite.generate("r", prompt(5), new: 3)
        #expect(suite.take("decider").allSatisfy { $0.item.hasOnward == (stage == .decider) } == true)
    }
}
