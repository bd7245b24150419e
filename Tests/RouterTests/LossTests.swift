import Messaging
import Proto
import Router
import Testing

/// Workers that vanish, return, and answer too late.
@Suite("What a lost worker owed is handed out again")
struct LossTests {
    enum Loss: CaseIterable { case bye, silence, unroutable, replacement }

    @Test(
        "Its successor gets the same items, and the client notices nothing", arguments: Loss.allCases,
        StageKind.allCases)
    func successor(_ loss: Loss, _ stage: StageKind) {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(5), new: 3)
        suite.work(until: stage)
        let owed = suite.take(stage.rawValue)
        suite.lose(stage, loss)
        suite.connect(stage.rawValue, stage, incarnation: 2, keeping: true)
        let again = suite.take(stage.rawValue)
        #expect(again.map { unstamped($0.item) } == owed.map { unstamped($0.item) })
        #expect(again.map { $0.tensor?.bytes } == owed.map { $0.tensor?.bytes })
        suite.answer(stage.rawValue, again)
        suite.run()
        #expect(suite.endings("r").count == 1)
        #expect(suite.ending("r").completed.tokens == [13, 16, 19])
        #expect(suite.streamed("r").map(\.token) == [13, 16, 19])
        #expect(suite.counters.workersLost == 1)
        #expect(suite.counters.redeliveries == Float(owed.count))
    }

    @Test("Late results of the old incarnation are dropped and counted", arguments: Loss.allCases)
    func late(_ loss: Loss) {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        let owed = suite.take("decider")
        let old = suite.players["decider"]!.address
        let outcomes = suite.compute("decider", owed)
        suite.lose(.decider, loss)
        suite.connect("decider", .decider, incarnation: 2)
        suite.feed(.results(outcomes, from: old))
        #expect(suite.counters.lateResults == 1)
        #expect(suite.take("core").isEmpty)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
    }

    /// When it was queued differs between deliveries.
    private func unstamped(_ item: Anira_Worker_V1_WorkItem) -> Anira_Worker_V1_WorkItem {
        var item = item
        item.enqueuedNs = 0
        return item
    }

    @Test("A result that comes twice counts once")
    func twice() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 2)
        let work = suite.take("decider")
        suite.answer("decider", work + work)
        #expect(suite.counters.lateResults == 1)
        suite.run()
        #expect(suite.endings("r").count == 1)
    }

    @Test("An item lost with its worker three times ends its request in INTERNAL, and no other")
    func threeTimes() {
        var suite = Suite()
        suite.generate("r", prompt(5))
        for incarnation in 2...4 as ClosedRange<UInt64> {
            #expect(suite.endings("r").isEmpty)
            #expect(suite.take("decider").count == 1)
            suite.connect("decider", .decider, incarnation: incarnation)
        }
        #expect(suite.ending("r").error.code == "INTERNAL")
        #expect(suite.endings("r").count == 1)
        suite.generate("next", prompt(5))
        suite.run()
        #expect(suite.ending("next").completed.tokens == [13])
    }

    /// Each replay began to count anew: seventeen workers died of one request.
    @Test("The same with workers that come back without context")
    func threeTimesWithReplays() {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(5), new: 1)
        for incarnation in 2...4 as ClosedRange<UInt64> {
            #expect(suite.endings("r").isEmpty)
            var isDead = false
            for _ in 0..<20 where !isDead {
                for name in ["decider", "coda", "core"] {
                    for work in suite.take(name) {
                        let holds = suite.players[name]!.held[work.item.session, default: 0] >= work.item.position
                        isDead = isDead || (name == "core" && work.item.position == 4 && holds)
                        if !isDead { suite.answer(name, [work]) }
                    }
                }
            }
            #expect(isDead)
            suite.connect("core", .core, incarnation: incarnation)
        }
        #expect(suite.ending("r").error.code == "INTERNAL")
        #expect(suite.counters.replays == 2)
    }

    @Test("Within the grace time work waits for its own worker; after it another one takes it")
    func grace() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 3)
        #expect(suite.take("decider").count == 1)
        suite.connect("second", .decider)
        suite.feed(.bye(from: suite.players["decider"]!.address))
        suite.beat()
        suite.pass(ms: 2000)
        #expect(suite.take("second").isEmpty)
        suite.beat()
        suite.pass(ms: 2000)
        #expect(suite.take("second").map(\.item.position) == [0])
    }

    @Test("A worker without the context gets it by a replay, and no token comes twice", arguments: StageKind.allCases)
    func replay(_ stage: StageKind) {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(5), new: 4)
        suite.work(until: stage, afterTokens: 2, of: "r")
        suite.connect(stage.rawValue, stage, incarnation: 2)
        suite.run()
        #expect(suite.streamed("r").map(\.token) == [13, 16, 19, 22])
        #expect(suite.streamed("r").map(\.index) == [0, 1, 2, 3])
        #expect(suite.ending("r").completed.tokens == [13, 16, 19, 22])
        #expect(suite.endings("r").count == 1)
        #expect(suite.counters.replays == 1)
        #expect(suite.players[stage.rawValue]!.computed.map(\.position) == Array(0..<8))
    }

    @Test("A replay starts where the context ends and spends the depths already spent")
    func depths() {
        var suite = Suite("online-1x", chunk: 4)
        suite.generate("r", prompt(6), new: 3) { $0.generate.include.exitDistributions = true }
        suite.work(until: .core, afterTokens: 1, of: "r")
        suite.players["core"]!.held = suite.players["core"]!.held.mapValues { _ in 3 }
        suite.run()
        let core = suite.players["core"]!
        #expect(core.computed.map(\.position) == Array(0..<6) + Array(3..<8))
        #expect(core.depths[[1, 3]] == [4, 4] && core.depths[[1, 5]] == [1, 1])
        #expect(suite.ending("r").completed.exitDistributions.map(\.values.count) == [1, 2, 3])
    }

    @Test("During a replay the depths are given, not decided again")
    func given() {
        var suite = Suite("online-1x")
        suite.generate("r", prompt(6), new: 3)
        suite.work(until: .core, afterTokens: 1, of: "r")
        suite.connect("core", .core, incarnation: 2)
        suite.answer("core", suite.take("core"))
        let work = suite.take("decider")
        #expect(work.map(\.item.position) == [0, 6])
        #expect(Array(work[0].item.decider.depths) == [1, 2, 3, 4, 5, 1])
        #expect(work[0].item.decider.depth.rule == .perToken)
        #expect(work[0].item.attempt == 1)
        #expect(work[1].item.decider.depths.isEmpty)
    }

    /// It took all workers for lost, and counted their items' losses.
    @Test("Nobody is lost because the Router itself stood still")
    func stoodStill() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 3)
        let work = suite.take("decider")
        for _ in 0..<4 {
            suite.now += 20_000_000_000
            suite.feed(.stoodStill(21_000_000_000))  // more than since it was last heard
            suite.pass(ms: 250)
        }
        #expect(suite.counters.workersLost == 0)
        suite.answer("decider", work)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 3)
        suite.pass(ms: 3001)
        #expect(suite.counters.workersLost == 3)
    }

    @Test("Results of the attempt before a replay are late")
    func attempts() {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(6), new: 2)
        suite.answer("decider", suite.take("decider"))
        let core = suite.take("core")
        suite.players["core"]!.held = [1: 0]
        suite.answer("core", [core[1]])
        #expect(suite.counters.replays == 1)
        suite.answer("core", [core[0]])
        #expect(suite.counters.lateResults == 1)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [16, 19])
    }

    @Test("A cache that is lost again and again ends in UNAVAILABLE, not in a circle")
    func circle() {
        var suite = Suite()
        suite.generate("r", prompt(6), new: 30)
        for _ in 0..<2000 where suite.state.activeRequests > 0 {
            suite.players["core"]!.held = [:]
            for name in ["decider", "core", "coda"] { suite.answer(name, suite.take(name)) }
        }
        #expect(suite.ending("r").error.code == "UNAVAILABLE")
    }

    @Test("A draining worker finishes what it has; the rest goes to another one")
    func drain() {
        var suite = Suite()
        suite.generate("a", prompt(5))
        let owed = suite.take("decider")
        suite.feed(.drain(from: suite.players["decider"]!.address))
        suite.generate("b", prompt(5))
        #expect(suite.take("decider").isEmpty)
        suite.answer("decider", owed)
        suite.run()
        #expect(suite.ending("a").completed.tokens == [13])
        #expect(suite.endings("b").isEmpty)
        suite.connect("second", .decider)
        suite.run()
        #expect(suite.ending("b").completed.tokens == [13])
    }

    /// It left between two tokens, and its sessions waited seconds for a worker that had said goodbye.
    @Test(
        "A draining worker leaves once its sessions have gone to others, which wait for nobody",
        arguments: [true, false])
    func leaving(handsOver: Bool) {
        var suite = Suite(handsOver: handsOver)
        suite.connect("other", .core)
        suite.generate("r", prompt(5), new: 40)
        suite.work(until: .core, afterTokens: 3)
        let leaver = suite.players["core"]!.address
        suite.feed(.drain(from: leaver))
        suite.pass(ms: 250)
        #expect(suite.dismissed.isEmpty)
        suite.run()
        suite.feed(.tick)
        #expect(suite.dismissed.first == leaver)
        suite.feed(.bye(from: leaver))
        #expect(suite.ending("r").completed.tokens == (4..<44).map { Int32((3 * $0 + 1) % suite.model.vocabSize) })
        #expect(suite.players["other"]!.computed.count > 20)
        #expect((suite.counters.workersLost, suite.counters.redeliveries) == (0, 0))
        #expect(suite.status().stages[1].workers.map(\.name) == ["other"])
    }

    @Test("Where all is being stopped, the only workers finish the requests that run", arguments: [true, false])
    func stoppingTogether(handsOver: Bool) {
        var suite = Suite(handsOver: handsOver)
        suite.generate("r", prompt(5), new: 40)
        suite.work(until: .core, afterTokens: 3)
        for stage in StageKind.allCases { suite.feed(.drain(from: suite.players[stage.rawValue]!.address)) }
        suite.feed(.shutDown)
        suite.feed(.tick)
        #expect(suite.dismissed.isEmpty)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 40)
        suite.feed(.tick)
        #expect(suite.dismissed.count == 3)
    }

    /// Workers were told to leave that the rest of a request was only to come by: its second chunk, the next of its session.
    @Test("The only workers stay for what has not come by them yet", arguments: [true, false])
    func stoppingWithMoreToCome(handsOver: Bool) {
        var suite = Suite(handsOver: handsOver)
        suite.generate("first", prompt(5), new: 3, session: "s")
        suite.generate("second", [1, 2], new: 3, session: "s")
        suite.generate("long", prompt(100), new: 2)
        for stage in StageKind.allCases { suite.feed(.drain(from: suite.players[stage.rawValue]!.address)) }
        suite.feed(.shutDown)
        for _ in 0..<100 where suite.state.activeRequests > 0 {
            suite.pass(ms: 20)
            for stage in StageKind.allCases { suite.answer(stage.rawValue, suite.take(stage.rawValue)) }
        }
        #expect(suite.dismissed.isEmpty)
        #expect(["first", "second", "long"].map { suite.ending($0).completed.tokens.count } == [3, 3, 2])
        suite.pass(ms: 250)
        #expect(suite.dismissed.count == 3)
    }

    /// The release could cross the worker's farewell, and the worker kept a copy that was out of date.
    @Test("A draining worker is told once more, when it is back, what it is to drop")
    func droppedWhileLeaving() {
        var suite = Suite()
        suite.connect("other", .core)
        suite.generate("r", prompt(5), new: 40, session: "s")
        suite.work(until: .core, afterTokens: 3)
        let leaver = suite.players["core"]!.address
        suite.feed(.drain(from: leaver))
        suite.run()
        suite.feed(.bye(from: leaver))
        let before = suite.releases.count
        suite.connect("core", .core, incarnation: 2, keeping: true)
        #expect(suite.releases.dropFirst(before).map(\.drop) == [true])
    }

    @Test("A worker that holds nothing may leave at once")
    func leavingIdle() {
        var suite = Suite()
        let address = suite.players["core"]!.address
        suite.feed(.drain(from: address))
        #expect(suite.dismissed == [address])
        suite.feed(.bye(from: address))
        suite.generate("r", prompt(5))
        suite.run()
        suite.connect("second", .core)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13])
    }

    @Test("A worker that computes without progress is lost, one that waits is not")
    func stall() {
        var suite = Suite()
        for _ in 0..<25 {
            suite.beat(computing: ["core"])
            suite.pass(ms: 2900)
        }
        #expect(suite.status().stages.map { $0.workers[0].state } == ["ready", "lost", "ready"])
    }

    /// It stayed in `status` for good.
    @Test("A lost worker that stays away is forgotten, one that comes back is not")
    func forgotten() {
        var suite = Suite()
        var states: [[String]] = []
        for _ in 0..<13 {
            suite.beat(except: "core")
            suite.pass(ms: 2900)
            states.append(suite.status().stages[1].workers.map(\.state))
        }
        #expect(states.first == ["ready"] && states[2] == ["lost"] && states.last == [])
        suite.generate("r", prompt(5))
        suite.connect("core", .core, incarnation: 2)
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13])
        #expect(suite.status().stages[1].workers.map(\.state) == ["ready"])
    }

    @Test("A stage without workers: the request waits, then ends in UNAVAILABLE")
    func nobody() {
        var suite = Suite(workers: [.decider, .coda])
        #expect(!suite.state.isReady)
        suite.generate("r", prompt(5))
        suite.answer("decider", suite.take("decider"))
        for _ in 0..<11 {
            #expect(suite.endings("r").isEmpty)
            suite.beat()
            suite.pass(ms: 2900)
        }
        #expect(suite.ending("r").error.code == "UNAVAILABLE")
        #expect(suite.ending("r").error.message.contains("core"))
    }

    @Test("A result of the wrong shape ends its request in INTERNAL and is counted", arguments: StageKind.allCases)
    func malformed(_ stage: StageKind) {
        var suite = Suite()
        suite.send(.score("r", prompt(5)) { $0.score.include.logits = true })
        suite.work(until: stage)
        let work = suite.take(stage.rawValue)
        var outcome = suite.players[stage.rawValue]!.compute(work[0], suite.model)
        outcome.tensor = Tensor(Frame([1, 2, 3]))
        suite.feed(.results([outcome], from: suite.players[stage.rawValue]!.address))
        #expect(suite.ending("r").error.code == "INTERNAL")
        #expect(suite.state.activeRequests == 0)
    }

    @Test("A stage's own failure reaches the client with its code")
    func failure() {
        var suite = Suite()
        suite.generate("r", prompt(5))
        let work = suite.take("decider")
        var outcome = suite.players["decider"]!.compute(work[0], suite.model)
        outcome.item.failure = .with {
            $0.code = "STORE_FULL"
            $0.message = "no room"
        }
        suite.feed(.results([outcome], from: suite.players["decider"]!.address))
        #expect(suite.ending("r").error.code == "STORE_FULL")
        #expect(suite.ending("r").error.message == "decider: no room")
    }
}

extension Suite {
    mutating func lose(_ stage: StageKind, _ loss: LossTests.Loss) {
        let address = players[stage.rawValue]!.address
        switch loss {
        case .bye: feed(.bye(from: address))
        case .unroutable: feed(.unroutable(address))
        case .replacement: break
        case .silence:
            beat(except: stage.rawValue)
            pass(ms: 2000)
            beat(except: stage.rawValue)
            pass(ms: 1001)
        }
    }

    /// A heartbeat of every worker.
    mutating func beat(except silent: String? = nil, computing: Set<String> = [], holding: [String: Int] = [:]) {
        for player in players.values where player.name != silent {
            let incarnation = String(decoding: player.address, as: UTF8.self).split(separator: "#")[1]
            feed(
                .heartbeat(
                    .with {
                        $0.name = player.name
                        $0.incarnation = UInt64(incarnation)!
                        $0.computing = computing.contains(player.name)
                        $0.queued = UInt32(player.inbox.count + holding[player.name, default: 0])
                    }))
        }
    }

    /// Works on until `stage` holds something, once `count` tokens of `id` have come.
    mutating func work(until stage: StageKind, afterTokens count: Int = 0, of id: String = "r") {
        while true {
            for name in StageKind.allCases.map(\.rawValue) {
                flush()
                let isThere = name == stage.rawValue && streamed(id).count >= count
                if isThere, !players[name]!.inbox.isEmpty { return }
                answer(name, take(name))
            }
        }
    }
}
