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
        let onward = work[0].item.way
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

    @Test("Drawn tokens go back to the decider by themselves, so many that the Router begins one again")
    func continuation() {
        var suite = Suite("online-1x", handsOver: true) { $0.continuation = 3 }
        suite.generate("r", prompt(5), new: 9)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 9)
        #expect(suite.players["coda"]!.computed.map(\.position) == Array(0..<13))
        // The prompt, and every fourth token; the ninth is not computed.
        #expect(suite.handedOut == 3)
        #expect(suite.cancels.isEmpty && suite.counters.lateResults == 0)
    }

    @Test("Results that are tokens ahead of those before them wait for their turn")
    func farAhead() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 5) { $0.generate.include.exitDistributions = true }
        var quiet = Suite()
        quiet.generate("r", prompt(5), new: 5) { $0.generate.include.exitDistributions = true }
        quiet.run()
        var results: [(name: String, outcomes: [Outcome])] = []
        for _ in 0..<5 {
            for name in ["decider", "core", "coda"] { results.append((name, suite.compute(name, suite.take(name)))) }
        }
        for result in results.dropFirst().reversed() { suite.deliver(result.name, result.outcomes) }
        #expect(suite.streamed("r").isEmpty)
        suite.deliver(results[0].name, results[0].outcomes)
        #expect(suite.ending("r").completed.tokens == quiet.ending("r").completed.tokens)
        #expect(suite.ending("r").completed.exitDistributions == quiet.ending("r").completed.exitDistributions)
        #expect(suite.counters.lateResults == 0)
    }

    @Test("Nothing is computed beyond a stop token, the last token or the model's positions")
    func ends() {
        var suite = Suite(handsOver: true)
        let room = suite.model.maxPositionEmbeddings
        suite.generate("stop", prompt(5), new: 50) { $0.generate.stopTokens = [19] }
        suite.generate("length", prompt(5), new: 3)
        suite.generate("context", prompt(room - 2), new: 50)
        suite.run()
        #expect(suite.ending("stop").completed.tokens == [13, 16, 19])
        #expect(suite.ending("length").completed.tokens.count == 3)
        #expect(suite.ending("context").completed.finishReason == "context")
        #expect(suite.cancels.isEmpty && suite.counters.lateResults == 0)
        let computed = suite.players["decider"]!.computed.count
        #expect(computed == 7 + 7 + room)
    }

    @Test("Tokens whose depths the client gives begin at the Router")
    func given() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(3), new: 6) {
            $0.generate.depth.policy = "per_token"
            $0.generate.depth.values = [2, 2, 2, 3, 3]
        }
        var work = suite.take("decider")
        #expect(!work[0].item.onward.isEmpty && !work[0].item.way.hasContinuation)
        suite.answer("decider", work)
        suite.answer("core", suite.take("core"))
        suite.answer("coda", suite.take("coda"))
        work = suite.take("decider")
        #expect(Array(work[0].item.decider.depths) == [3])
        suite.answer("decider", work)
        suite.run()
        // Beyond the list the rule decides: position mod K + 1.
        let k = suite.model.maxDepth
        #expect(suite.ending("r").completed.depths == [2, 3, 3, 5 % k + 1, 6 % k + 1, 7 % k + 1].map(Int32.init))
        // The prompt and two given tokens.
        #expect(suite.handedOut == 3)
    }

    @Test("A worker that dies while tokens go round is replaced", arguments: StageKind.allCases)
    func deathBetweenTokens(_ stage: StageKind) {
        var quiet = Suite()
        quiet.generate("r", prompt(5), new: 20)
        quiet.run()
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 20)
        for _ in 0..<4 { for name in ["decider", "core", "coda"] { suite.answer(name, suite.take(name)) } }
        suite.work(until: stage)
        suite.connect(stage.rawValue, stage, incarnation: 2)
        suite.run()
        #expect(suite.ending("r").completed.tokens == quiet.ending("r").completed.tokens)
        #expect(suite.endings("r").count == 1)
    }

    @Test("A cancelled request's tokens stop going round")
    func cancelBetweenTokens() {
        var suite = Suite(handsOver: true)
        suite.generate("r", prompt(5), new: 20)
        suite.work(until: .coda)
        let drawn = suite.compute("coda", suite.take("coda"))
        #expect(suite.players["decider"]!.inbox.count == 1)
        suite.send(.cancel("r", id: "c"))
        #expect(suite.players["decider"]!.inbox.isEmpty)
        suite.deliver("coda", drawn)
        suite.run()
        #expect(suite.players["core"]!.computed.count == 5)
        #expect(suite.state.activeRequests == 0)
    }

    @Test("Chunks that others of the request may overtake come by way of the Router")
    func several() {
        var suite = Suite(chunk: 2, handsOver: true)
        suite.generate("r", prompt(6), new: 2)
        let work = suite.take("decider")
        #expect(work.count == 3)
        #expect(work.allSatisfy { $0.item.onward.isEmpty })
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
        #expect(suite.take("decider").allSatisfy { !$0.item.onward.isEmpty == (stage == .decider) } == true)
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
            $0.durability = "memory"
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
        suite.feed(.bye(from: suite.players["core"]!.address))
        suite.connect("core", .coda, incarnation: 2)
        suite.generate("b", [1], session: "s")
        suite.run()
        #expect(suite.ending("b").completed.tokens.count == 1)
    }
}
