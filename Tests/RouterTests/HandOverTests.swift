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

    /// Results handed out again in any order moved `done` backwards: the request waited for ever.
    @Test("All coda results of a score lost together are made good")
    func lostTogether() {
        var (quiet, suite) = (Suite(chunk: 2), Suite(chunk: 2))
        for _ in 0..<2 { quiet.send(.score("r", prompt(8))) }
        quiet.run()
        suite.send(.score("r", prompt(8)))
        suite.work(until: .coda)
        while suite.endings("r").isEmpty, suite.now < 20_000_000_000 {
            for name in ["decider", "core"] { suite.answer(name, suite.take(name)) }
            let work = suite.take("coda")
            if suite.now < 3_000_000_000 { _ = suite.compute("coda", work) } else { suite.answer("coda", work) }
            suite.now += 250_000_000
            suite.beat()
            suite.feed(.tick)
        }
        #expect(suite.ending("r").scored.logprobs == quiet.ending("r").scored.logprobs)
        #expect(suite.endings("r").count == 1)
    }

    @Test("A coda result whose predecessor was lost waits for it: nothing is skipped")
    func gap() {
        var (quiet, suite) = (Suite(chunk: 2), Suite(chunk: 2))
        quiet.send(.score("r", prompt(4)))
        quiet.run()
        suite.send(.score("r", prompt(4)))
        suite.work(until: .coda)
        let outcomes = suite.compute("coda", suite.take("coda"))
        #expect(outcomes.count == 2)
        suite.deliver("coda", [outcomes[1]])
        suite.run()
        #expect(suite.ending("r").scored.logprobs == quiet.ending("r").scored.logprobs)
    }

    /// A worker that others keep busy is never idle.
    @Test("Rows lost on the way to a busy worker are handed out again once later ones were answered")
    func lostUnderLoad() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 2)
        suite.losesHandOvers = true
        suite.answer("decider", suite.take("decider"))
        suite.losesHandOvers = false
        for index in 0..<60 where suite.endings("r").isEmpty {
            suite.generate("other\(index)", prompt(3))
            suite.run()
            suite.now += 250_000_000
            suite.beat(computing: ["decider", "core", "coda"])
            suite.feed(.tick)
        }
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
    }

    /// Workers outlive a Router: what they still hold of its last run must not meet requests of this one.
    @Test("Numbers begin beyond those of an earlier run")
    func numbers() {
        var suite = Suite {
            $0.firstNumber = 1 << 50
            $0.hasLedger = false
        }
        suite.generate("r", prompt(5))
        let work = suite.take("decider")
        #expect(work[0].item.request >= 1 << 50 && work[0].item.session >= 1 << 50)
    }

    @Test("A session whose worker's name now belongs to another stage goes to another worker")
    func otherStage() {
        var suite = Suite()
        suite.generate("a", prompt(5), session: "s")
        suite.run()
        suite.connect("core-b", .core)
        suite.connect("core", .coda, incarnation: 2)
        suite.generate("b", [1], session: "s")
        suite.run()
        #expect(suite.ending("b").completed.tokens.count == 1)
    }
}
