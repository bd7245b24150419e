import Foundation
import Proto
import Router
import Testing

/// Faults that were found in the state machine, each with what broke.
@Suite("Faults that must not come back")
struct FaultTests {
    /// `leave` renewed a waiting request from its clients only: who had asked for its `result` never heard of it.
    @Test("result of a request that waits for its session is answered")
    func watcherOfWaiting() {
        var suite = Suite()
        suite.generate("a", [1], session: "s")
        suite.generate("b", [2], session: "s")
        suite.send(.result("b", id: "w"), from: .other)
        suite.run()
        #expect(suite.endings("b").count == 1)
        #expect(suite.endings("w").count == 1)
    }

    /// `leave` read `clients[0]` of a waiting request whose client had gone: the Router ended with a trap.
    @Test("A waiting request whose client has gone still runs")
    func goneWhileWaiting() async {
        await #expect(processExitsWith: .success) {
            var suite = Suite()
            suite.generate("a", [1], session: "s", from: .other)
            suite.generate("b", [2], session: "s")
            suite.feed(.clientLost(.dealer, slow: false))
            suite.run()
            #expect(suite.ledger.sessions["s"]?.tokens == [1, 1, 2, 7])
        }
    }

    /// `cutOff` went over a copy of the requests and unwrapped one that ending another had just ended too.
    @Test("A slow client with a queue of requests in a full session is cut off")
    func slowWithQueue() async {
        await #expect(processExitsWith: .success) {
            for _ in 0..<20 {
                var suite = Suite()
                suite.generate("a", prompt(200), session: "s", from: .other)
                suite.generate("b", prompt(10), session: "s")
                for index in 0..<4 { suite.generate("c\(index)", prompt(100), session: "s") }
                while suite.endings("a").isEmpty {
                    for name in ["decider", "core", "coda"] { suite.answer(name, suite.take(name)) }
                }
                suite.feed(.clientLost(.dealer, slow: true))
                suite.run()
                #expect(suite.state.activeRequests == 0)
            }
        }
    }

    /// Ending the session's first request begins the next one anew: the client stayed with that one.
    @Test("A slow client is cut off from a request that begins meanwhile")
    func slowWhileNextBegins() {
        // The order in which requests are gone through depends on their numbers.
        for earlier in 0..<20 {
            var suite = Suite()
            for index in 0..<earlier { suite.generate("earlier-\(index)", prompt(1)) }
            suite.run()
            suite.generate("a", prompt(5), session: "s")
            suite.generate("b", prompt(5), session: "s")
            suite.generate("b", prompt(5), session: "s", from: .other)
            suite.replies.removeAll()
            suite.feed(.clientLost(.dealer, slow: true))
            suite.run()
            #expect(suite.replies.filter { $0.client == .dealer }.isEmpty)
            #expect(suite.counters.slowClients == 2)
            #expect(suite.replies("b", to: .other).last?.completed.tokens.count == 1)
        }
    }

    /// Nothing was released: the records of a named session are never collected, and no name led to them any more.
    @Test("A named session whose first request fails leaves nothing in the stores")
    func firstFails() {
        var suite = Suite()
        suite.generate("a", prompt(5), new: 9, session: "s")
        suite.work(until: .coda, afterTokens: 2, of: "a")
        suite.send(.cancel("a", id: "c"))
        #expect(suite.releases.filter { $0 == (1, true) }.count == 3)
    }

    /// The running request was cancelled, and the answer was NOT_FOUND.
    @Test("drop_session of a session that has only begun is accepted")
    func dropBegun() {
        var suite = Suite()
        suite.generate("a", prompt(5), session: "s")
        suite.flush()
        suite.send(.drop("s", id: "d"))
        #expect(suite.ending("a").error.code == "CANCELLED")
        #expect(suite.replies("d").last?.error.code != "NOT_FOUND")
    }

    /// A suite whose one session was dropped while the core, which holds it, was away.
    private func droppedWithoutCore() -> Suite {
        var suite = Suite()
        suite.generate("a", prompt(5), session: "s")
        suite.run()
        suite.feed(.bye(from: suite.players["core"]!.address))
        suite.players["core"]!.address = []
        suite.send(.drop("s", id: "d"))
        return suite
    }

    /// The release went to the lost worker's old address only; its successor kept the records for good.
    @Test("A session dropped while a worker is away is dropped when it is back")
    func dropWhileAway() {
        var suite = droppedWithoutCore()
        suite.connect("core", .core, incarnation: 2, keeping: true)
        #expect(suite.players["core"]!.held.isEmpty)
    }

    /// No later Router knew of it, and nothing else collects named sessions.
    @Test("It is owed by the next Router, too")
    func dropOwedAcrossRouters() {
        let suite = droppedWithoutCore()
        var next = Suite(ledger: suite.ledger, workers: [.decider, .coda])
        next.players["core"] = suite.players["core"]
        next.connect("core", .core, incarnation: 2, keeping: true)
        #expect(next.players["core"]!.held.isEmpty)
        #expect(next.ledger.owedDrops.isEmpty)
    }

    /// It was owed only to workers that were known to be lost.
    @Test("A drop whose message finds no worker is owed to its successor")
    func dropUndelivered() {
        var suite = Suite()
        suite.generate("a", prompt(5), session: "s")
        suite.run()
        let address = suite.players["core"]!.address
        suite.players["core"]!.address = []
        suite.send(.drop("s", id: "d"))
        suite.feed(.unroutable(address))
        suite.feed(.undroppable(session: 1, address))
        suite.connect("core", .core, incarnation: 2, keeping: true)
        #expect(suite.players["core"]!.held.isEmpty)
    }

    /// After a full disk the ledger's number was behind those of its sessions: a new session got the number, and the rows, of
    /// an old one.
    @Test("A new session's number is beyond all that the ledger knows")
    func numbers() {
        var earlier = Suite()
        earlier.generate("a", prompt(5), session: "s")
        earlier.run()
        var ledger = earlier.ledger
        ledger.sessions["s"]?.id = 41
        ledger.nextSession = 7
        var suite = Suite(ledger: ledger)
        suite.generate("r", prompt(3))
        #expect(suite.take("decider").map(\.item.session) == [42])
    }

    /// What waited for credit kept its time, and was failed as if no worker had come for so long.
    @Test("What a draining worker had not taken waits anew for another one")
    func drainingBacklog() {
        var suite = Suite(workers: [.core, .coda])
        suite.connect("decider", .decider, credit: 1)
        for id in ["a", "b"] { suite.generate(id, prompt(3)) }
        #expect(suite.take("decider").count == 1)
        for _ in 0..<20 {
            suite.beat(computing: ["decider"], holding: ["decider": 1])
            suite.pass(ms: 2000)
        }
        suite.feed(.drain(from: suite.players["decider"]!.address))
        suite.pass(ms: 250)
        #expect(suite.endings("b").isEmpty)
        suite.connect("second", .decider)
        suite.run()
        #expect(suite.ending("b").completed.tokens.count == 1)
    }

    /// Nothing was in flight and nothing was finished: the request stayed for ever.
    @Test("A coda that owes a token and sends none ends the request in INTERNAL")
    func noToken() {
        var suite = Suite()
        suite.generate("r", prompt(5))
        suite.work(until: .coda)
        var outcomes = suite.compute("coda", suite.take("coda"))
        outcomes[0].item.coda.sampled = false
        suite.deliver("coda", outcomes)
        #expect(suite.ending("r").error.code == "INTERNAL")
    }

    /// The replay began where context was missing, beyond chunks that were still on their way: those were forgotten,
    /// their log-probabilities stayed 0 and the depths after them were taken for theirs.
    @Test("A replay also computes again what was still in flight before it", arguments: [true, false])
    func replayBehind(_ isScore: Bool) {
        func begin() -> Suite {
            var suite = Suite("online-1x", chunk: 3)
            let depth = Anira_V1_Depth.with {
                $0.policy = "per_token"
                $0.values = (0..<15).map { ($0 * $0) % 5 + 1 }
            }
            if isScore { suite.send(.score("r", prompt(15)) { $0.score.depth = depth }) }
            if !isScore { suite.generate("r", prompt(15), new: 2) { $0.generate.depth = depth } }
            return suite
        }
        var (quiet, suite) = (begin(), begin())
        quiet.run()
        suite.answer("decider", suite.take("decider"))
        let outcomes = suite.compute("core", suite.take("core"))
        suite.deliver("core", [outcomes[0]])
        suite.answer("coda", suite.take("coda"))
        suite.players["decider"]!.held = [1: 9]
        suite.run()
        #expect(suite.ending("r").scored.logprobs == quiet.ending("r").scored.logprobs)
        #expect(suite.ending("r").scored.depths == quiet.ending("r").scored.depths)
        #expect(suite.ending("r").completed.promptDepths == quiet.ending("r").completed.promptDepths)
        #expect(suite.ending("r").completed.depths == quiet.ending("r").completed.depths)
        #expect(suite.ending("r").completed.tokens == quiet.ending("r").completed.tokens)
    }

    /// Rows of the first pass stayed beside those of the replay when its chunks began elsewhere.
    @Test("Logits of a score that was replayed from inside a chunk have one row a position")
    func logits() {
        var suite = Suite(chunk: 4, window: 1)
        suite.send(.score("r", prompt(10)) { $0.score.include.logits = true })
        for name in ["decider", "core", "coda", "decider"] { suite.answer(name, suite.take(name)) }
        suite.players["core"]!.held = [1: 2]
        suite.run()
        #expect(suite.ending("r").scored.depths.count == 10)
        #expect(suite.replies.last?.tensors.map(\.count) == [10 * suite.model.vocabSize * 4])
    }

    /// Answers are forgotten in the order of their ends, but the ledger was cut by number: an answer still remembered
    /// was missing after a restart.
    @Test("The ledger keeps every answer that is remembered")
    func ledger() {
        var suite = Suite { $0.limits.rememberedResults = 2 }
        suite.generate("long", prompt(3), new: 1, session: "t", from: .other)
        let held = suite.take("decider")
        for id in ["b", "c"] {
            suite.generate(id, prompt(3))
            suite.run()
        }
        suite.answer("decider", held)
        suite.run()
        suite.send(.result("long", id: "w"))
        #expect(suite.ending("w").completed.tokens.count == 1)
        #expect(Set(suite.ledger.results.map(\.id)).isSuperset(of: ["c", "long"]))
    }

    /// A second READY on the same connection made a new record of the worker, and what it owed was forgotten.
    @Test("A draining worker that asks again still owes what it holds")
    func drainingAsksAgain() {
        var suite = Suite()
        suite.generate("r", prompt(3))
        let work = suite.take("decider")
        suite.feed(.drain(from: suite.players["decider"]!.address))
        suite.connect("decider", .decider)
        suite.answer("decider", work)
        suite.run()
        #expect(suite.endings("r").count == 1)
    }
}
