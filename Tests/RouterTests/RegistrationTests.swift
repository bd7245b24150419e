import Proto
import Router
import Testing

@Suite("Only workers of this model and this protocol are registered")
struct RegistrationTests {
    @Test("A matching worker is acknowledged, and each stage needs one")
    func ready() {
        var suite = Suite(workers: [.decider, .core])
        #expect(suite.acknowledged.count == 2)
        #expect(!suite.state.isReady)
        suite.connect("coda", .coda)
        #expect(suite.state.isReady)
        #expect(suite.refused.isEmpty)
    }

    @Test("Another protocol version is refused naming both")
    func version() {
        var suite = Suite(workers: [])
        suite.connect("core", .core) { $0.protocolVersion = 77 }
        #expect(suite.acknowledged.isEmpty)
        #expect(suite.refused[0].reason.contains("77") && suite.refused[0].reason.contains("\(workerProtocolVersion)"))
        #expect(suite.refused[0].protocolVersion == workerProtocolVersion)
        #expect(suite.counters.workersRefused == 1)
    }

    @Test("Another model is refused naming both fingerprints, and gets no work")
    func fingerprint() {
        var suite = Suite(workers: [])
        suite.connect("decider", .decider) { $0.fingerprint = "another" }
        #expect(suite.refused[0].reason.contains("another") && suite.refused[0].reason.contains(suite.fingerprint))
        #expect(suite.refused[0].fingerprint == suite.fingerprint)
        suite.generate("r", prompt(3))
        #expect(suite.take("decider").isEmpty)
    }

    @Test("A stage nobody knows and an empty name are refused")
    func nonsense() {
        var suite = Suite(workers: [])
        suite.connect("x", .core) { $0.stage = "kernel" }
        suite.connect("", .core)
        #expect(suite.refused.count == 2)
        #expect(suite.refused[0].reason.contains("kernel"))
    }

    @Test("An older process of a registered name is refused; asking again is acknowledged again")
    func incarnations() {
        var suite = Suite(workers: [])
        suite.connect("core", .core, incarnation: 5)
        suite.connect("core", .core, incarnation: 5)
        #expect(suite.acknowledged.count == 2)
        #expect(suite.counters.workersLost == 0)
        suite.connect("core", .core, incarnation: 4)
        #expect(suite.refused[0].reason.contains("core"))
        #expect(suite.status().stages[1].workers.count == 1)
    }

    @Test("Asking again does not lose what is owed")
    func again() {
        var suite = Suite()
        suite.generate("r", prompt(3))
        let work = suite.take("decider")
        suite.connect("decider", .decider)
        suite.answer("decider", work)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 1)
    }

    @Test("New sessions go to the least loaded worker; a session stays with its own")
    func pins() {
        var suite = Suite(workers: [.core, .coda])
        suite.connect("d1", .decider)
        suite.connect("d2", .decider)
        suite.generate("long", prompt(60), new: 5, session: "s")
        suite.generate("short", prompt(3), new: 5, session: "t")
        suite.run()
        suite.generate("more", prompt(3), new: 5, session: "s")
        suite.run()
        let sessions = ["d1", "d2"].map { Set(suite.players[$0]!.computed.map(\.session)) }
        #expect(sessions == [[1], [2]])
    }

    @Test("Registered workers are sent heartbeats, lost ones are not")
    func heartbeats() {
        var suite = Suite()
        suite.feed(.bye(from: suite.players["core"]!.address))
        suite.feed(.tick)
        #expect(Set(suite.heartbeats) == [suite.players["decider"]!.address, suite.players["coda"]!.address])
    }

    @Test(
        "The promise of an acceptance is the weakest of the stages' stores and the Router's",
        arguments: ["memory", "process", "power"])
    func durability(_ weakest: String) {
        var suite = Suite(workers: []) { $0.durability = "power" }
        for stage in StageKind.allCases {
            suite.connect(stage.rawValue, stage) { $0.durability = stage == .core ? weakest : "power" }
        }
        suite.generate("r", prompt(3))
        #expect(suite.replies("r")[0].accepted.durability == weakest)
        suite.connect("second", .core) { $0.durability = "power" }
        suite.feed(.bye(from: suite.players["core"]!.address))
        suite.generate("later", prompt(3))
        #expect(suite.replies("later")[0].accepted.durability == "power")

        var other = Suite(workers: []) { $0.durability = weakest }
        for stage in StageKind.allCases { other.connect(stage.rawValue, stage) { $0.durability = "power" } }
        other.generate("r", prompt(3))
        #expect(other.replies("r")[0].accepted.durability == weakest)
    }

    @Test("Asking again is a sign of life")
    func lively() {
        var suite = Suite()
        for _ in 0..<3 {
            suite.beat(except: "core")
            suite.connect("core", .core)
            suite.pass(ms: 2000)
        }
        #expect(suite.counters.workersLost == 0)
    }

    @Test("Messages of workers nobody knows change nothing and are counted")
    func strangers() {
        var suite = Suite()
        suite.generate("r", prompt(3))
        let outcomes = suite.take("decider").map { suite.players["decider"]!.compute($0, suite.model) }
        suite.feed(.results(outcomes, from: [1, 2, 3]))
        suite.feed(.bye(from: [1, 2, 3]))
        suite.feed(.drain(from: [1, 2, 3]))
        suite.feed(.unroutable([1, 2, 3]))
        suite.feed(.heartbeat(.with { $0.name = "nobody" }))
        #expect(suite.counters.lateResults == 1)
        #expect((suite.counters.workersLost, suite.counters.unroutable) == (0, 1))
        #expect(suite.take("core").isEmpty)
    }

    /// It took the name over, and its stage had no worker any more.
    @Test("A worker of another stage does not take a name over")
    func nameOfAnotherStage() {
        var suite = Suite()
        suite.connect("decider", .coda, incarnation: 2)
        #expect(suite.counters.workersRefused == 1)
        #expect(suite.counters.workersLost == 0)
    }
}
