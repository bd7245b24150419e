import Foundation
import Proto
import Router
import Testing

@Suite("Every accepted request ends exactly once, and the same id never runs twice")
struct RequestTests {
    @Test("A deadline ends a request in DEADLINE_EXCEEDED and takes its work back")
    func deadline() {
        var suite = Suite()
        suite.generate("r", prompt(5)) { $0.deadlineMs = 500 }
        let work = suite.take("decider")
        suite.pass(ms: 499)
        #expect(suite.endings("r").isEmpty)
        suite.pass(ms: 1)
        #expect(suite.ending("r").error.code == "DEADLINE_EXCEEDED")
        #expect(suite.cancels.count == 1)
        suite.answer("decider", work)
        suite.run()
        #expect(suite.endings("r").count == 1)
        #expect(suite.counters.lateResults == 1)
    }

    @Test("cancel ends a running request, tells its worker and answers both")
    func cancel() {
        var suite = Suite()
        suite.generate("r", prompt(5))
        _ = suite.take("decider")
        suite.send(.cancel("r", id: "c"), from: .other)
        #expect(suite.ending("r").error.code == "CANCELLED")
        #expect(suite.replies("c", to: .other).map(\.reply) == [.accepted(.with { $0.durability = "process" })])
        #expect(suite.cancels.map(\.to) == [suite.players["decider"]!.address])
        suite.send(.cancel("r", id: "d"), from: .other)
        #expect(suite.ending("d").error.code == "NOT_FOUND")
    }

    @Test("result of a running request comes when it ends, under the asker's id")
    func watch() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        suite.send(.result("r", id: "w"), from: .req)
        #expect(suite.replies("w").isEmpty)
        suite.run()
        #expect(suite.replies("w", to: .req).map(\.completed.tokens) == [[13, 16]])
        #expect(suite.endings("r").count == 1)
    }

    /// Half a million of them took 100 MiB.
    @Test("So many may wait for a result, and those of a client that is cut off no longer do")
    func watchers() {
        var suite = Suite()
        suite.generate("r", prompt(5))
        for index in 0..<1030 { suite.send(.result("r", id: "w\(index)"), from: .other) }
        #expect(suite.replies.count { $0.message.error.code == "OVERLOADED" } == 6)
        suite.feed(.clientLost(.other, slow: false))
        suite.run()
        #expect(suite.endings("r").count == 1)
        #expect(suite.endings("w0").isEmpty)
    }

    /// After a Router's crash the rest of a stream was that of another draw.
    @Test("Without a seed the same request draws the same again, another one does not")
    func drawn() {
        func seed(_ id: String) -> UInt64? {
            var suite = Suite()
            suite.generate(id, prompt(5)) { $0.generate.sampling.temperature = 1 }
            suite.work(until: .coda)
            return suite.take("coda").first?.item.coda.sampling.seed
        }
        #expect(seed("a") != nil)
        #expect(seed("a") == seed("a"))
        #expect(seed("a") != seed("b"))
    }

    @Test("result of a finished request is its answer; of an unknown one NOT_FOUND")
    func result() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        suite.run()
        suite.send(.result("r", id: "w"), from: .other)
        suite.send(.result("x", id: "y"), from: .other)
        #expect(suite.ending("w").completed == suite.ending("r").completed)
        #expect(suite.ending("y").error.code == "NOT_FOUND")
    }

    @Test("The same request under the same id joins: both clients get the ending, it runs once")
    func duplicate() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        let work = suite.take("decider")
        suite.generate("r", prompt(5), new: 2, from: .req)
        suite.generate("r", prompt(5), new: 2)
        #expect(suite.take("decider").isEmpty)
        suite.answer("decider", work)
        suite.run()
        for client in [ClientAddress.dealer, .req] {
            #expect(suite.replies("r", to: client).filter { $0.completed.tokens == [13, 16] }.count == 1)
        }
        #expect((suite.counters.accepted, suite.counters.duplicates) == (1, 2))
    }

    @Test("A repeat after the end gets the remembered answer, also from the next Router")
    func repetition() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        suite.run()
        var next = Suite(ledger: suite.ledger)
        for answer in [0, 1] {
            if answer == 0 { suite.generate("r", prompt(5), new: 2, from: .req) }
            if answer == 1 { next.generate("r", prompt(5), new: 2, from: .req) }
        }
        #expect(suite.replies("r", to: .req).map(\.completed) == [suite.ending("r").completed])
        #expect(next.replies("r", to: .req).map(\.completed) == [suite.ending("r").completed])
        #expect(next.take("decider").isEmpty)
    }

    @Test("Another request under a known id is refused, running or finished")
    func reuse() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        suite.generate("r", prompt(6), new: 2, from: .other)
        #expect(suite.replies("r", to: .other).map(\.error.code) == ["INVALID_ARGUMENT"])
        suite.run()
        suite.generate("r", prompt(6), new: 2, from: .other)
        #expect(suite.replies("r", to: .other).map(\.error.code) == ["INVALID_ARGUMENT", "INVALID_ARGUMENT"])
        #expect(suite.ending("r").error.message.contains("'r'"))
    }

    @Test("Only so many answers are remembered, the oldest go first")
    func forgetting() {
        var suite = Suite { $0.limits.rememberedResults = 2 }
        for id in ["a", "b", "c"] {
            suite.generate(id, prompt(3))
            suite.run()
        }
        for id in ["a", "b", "c"] { suite.send(.result(id, id: "of-\(id)")) }
        #expect(suite.ending("of-a").error.code == "NOT_FOUND")
        #expect(suite.ending("of-b").completed == suite.ending("b").completed)
        #expect(suite.ending("of-c").completed == suite.ending("c").completed)
    }

    @Test("Too many requests are answered OVERLOADED with a time to come back; a known id is not")
    func overloaded() {
        var suite = Suite { $0.limits.concurrentRequests = 1 }
        suite.generate("a", prompt(3))
        suite.generate("b", prompt(3), from: .other)
        suite.generate("a", prompt(3), from: .other)
        #expect(suite.ending("b").error.code == "OVERLOADED")
        #expect(suite.ending("b").error.retryAfterMs > 0)
        suite.run()
        suite.generate("b", prompt(3), from: .other)
        suite.run()
        #expect(suite.replies("a", to: .other).last?.completed.tokens.count == 1)
        #expect(suite.ending("b").completed.tokens.count == 1)
    }

    @Test("While shutting down new requests are refused, running ones finish")
    func shutDown() {
        var suite = Suite()
        suite.generate("a", prompt(3))
        suite.feed(.shutDown)
        suite.generate("b", prompt(3))
        #expect(suite.ending("b").error.code == "UNAVAILABLE")
        suite.run()
        #expect(suite.ending("a").completed.tokens.count == 1)
    }

    @Test("What still runs when the grace time is over ends in UNAVAILABLE, and may be sent again to the next Router")
    func abandon() {
        var suite = Suite()
        for index in 0..<3 { suite.generate("r\(index)", prompt(3), session: "s") }
        suite.feed(.shutDown)
        suite.feed(.abandon)
        for index in 0..<3 { #expect(suite.endings("r\(index)").map(\.error.code) == ["UNAVAILABLE"]) }
        var next = Suite(ledger: suite.ledger)
        next.generate("r0", prompt(3))
        next.run()
        #expect(next.ending("r0").completed.tokens.count == 1)
    }

    @Test("A client that does not read is cut off and its request ends; others that wait still get theirs")
    func slow() {
        var suite = Suite()
        suite.generate("alone", prompt(3))
        suite.generate("shared", prompt(3))
        suite.generate("shared", prompt(3), from: .other)
        suite.feed(.clientLost(.dealer, slow: true))
        #expect(suite.state.activeRequests == 1)
        #expect(suite.counters.slowClients == 2)
        suite.run()
        #expect(suite.replies("shared", to: .other).last?.completed.tokens.count == 1)
        #expect(suite.endings("shared").count == 1)
    }

    @Test("A client that has gone finds its answer when it comes back")
    func gone() {
        var suite = Suite()
        suite.generate("r", prompt(3), new: 2)
        suite.feed(.clientLost(.dealer, slow: false))
        suite.run()
        #expect(suite.endings("r").isEmpty)
        suite.send(.result("r", id: "w"), from: .other)
        #expect(suite.ending("w").completed.tokens.count == 2)
    }

    @Test("Answer, session and replies are one ending: written before anyone is told")
    func ending() {
        var suite = Suite()
        suite.generate("r", prompt(3), session: "s", from: .req)
        suite.answer("decider", suite.take("decider"))
        suite.answer("core", suite.take("core"))
        let work = suite.take("coda")
        let outcomes = work.map { suite.players["coda"]!.compute($0, suite.model) }
        let actions = suite.state.handle(.results(outcomes, from: suite.players["coda"]!.address), now: suite.now)
        let endings = actions.compactMap { if case .end(let ending) = $0 { ending } else { nil } }
        #expect(endings.map { $0.answer?.id } == ["r"])
        #expect(endings.map { $0.session?.name } == ["s"])
        #expect(endings.map { $0.replies.map(\.client) } == [[.req]])
        #expect(!actions.contains { if case .reply = $0 { true } else { false } })
    }

    @Test("models and status describe the suite")
    func status() {
        var suite = Suite()
        suite.send(.with { $0.models = .init() })
        #expect(suite.replies[0].message.models.models.map(\.fingerprint) == [suite.fingerprint])
        suite.generate("r", prompt(3), session: "s")
        #expect(suite.status().running == 1)
        #expect(suite.status().stages.map(\.name) == ["decider", "core", "coda"])
        #expect(suite.status().stages.map(\.queued) == [1, 0, 0])
        suite.flush()
        #expect(suite.status().stages[0].workers[0].inFlight == 1)
        suite.run()
        #expect((suite.status().running, suite.status().sessions, suite.counters.completed) == (0, 1, 1))
    }
}

extension ClientRequest {
    static func cancel(_ target: String, id: String) -> ClientRequest {
        .with {
            $0.id = id
            $0.cancel.id = target
        }
    }

    static func result(_ target: String, id: String) -> ClientRequest {
        .with {
            $0.id = id
            $0.result.id = target
        }
    }

    static func drop(_ session: String, id: String) -> ClientRequest {
        .with {
            $0.id = id
            $0.dropSession.session = session
        }
    }
}
