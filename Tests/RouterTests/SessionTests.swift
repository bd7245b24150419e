import Foundation
import Proto
import Router
import Testing

@Suite("Named sessions continue from where they ended")
struct SessionTests {
    @Test("Only new positions are computed, the prompt follows what was said before", arguments: [2, 64])
    func continuation(_ chunk: Int) {
        var suite = Suite(chunk: chunk)
        suite.generate("a", prompt(5), new: 2, session: "s")
        suite.run()
        suite.generate("b", [9, 9], new: 2, session: "s")
        suite.run()
        // 5 + 2 positions of the first request, its last token computed by the second.
        for player in suite.players.values { #expect(player.computed.map(\.position) == Array(0..<10)) }
        #expect(suite.ending("b").completed.promptDepths == [3, 4])
        #expect(suite.ending("b").completed.usage.promptTokens == 2)
        #expect(suite.ending("b").completed.tokens == [25, 28])
        #expect(suite.ledger.sessions["s"]?.tokens == prompt(5) + [13, 16, 9, 9, 25, 28])
        #expect(suite.ledger.sessions["s"]?.depths.count == 10)
    }

    /// R2 moved the session and failed; the session went on where it had been, moved again, and found R2's rows there.
    @Test("What a failed request left on another worker is not believed", arguments: StageKind.allCases, [false, true])
    func strayCopy(_ stage: StageKind, _ handsOver: Bool) {
        let (own, other) = (stage.rawValue, "\(stage.rawValue)-other")
        var suite = Suite(handsOver: handsOver)
        for _ in 0..<2 {  // beyond the time in which a worker of an earlier run is waited for
            suite.pass(ms: 2000)
            suite.beat()
        }
        /// Its process ends in order; a later one has what it stored.
        func leave(_ name: String) {
            suite.feed(.drain(from: suite.players[name]!.address))
            suite.feed(.bye(from: suite.players[name]!.address))
        }
        suite.generate("a", prompt(5), new: 1, session: "s")
        suite.run()
        suite.connect(other, stage)
        leave(own)
        suite.generate("b", prompt(9), new: 4, session: "s")
        for _ in 0..<8 where suite.streamed("b").isEmpty {
            for name in [StageKind.decider, .core, .coda].map({ $0 == stage ? other : $0.rawValue }) {
                suite.answer(name, suite.take(name))
            }
        }
        let stray = suite.players[other]!.held
        suite.send(.cancel("b", id: "c"))
        #expect(suite.ending("b").error.code == "CANCELLED")
        #expect(suite.players[other]!.held.isEmpty)
        suite.players[other]!.held = stray  // that message was lost
        suite.connect(own, stage, incarnation: 2, keeping: true)
        suite.generate("d", prompt(3), new: 1, session: "s")
        suite.run()
        leave(own)
        let before = suite.players[other]!.computed.count
        suite.generate("e", [9], new: 1, session: "s")
        suite.run()
        #expect(suite.ending("e").completed.tokens.count == 1)
        #expect(suite.players[other]!.computed[before...].map(\.position) == Array(0..<11))
    }

    /// Each end began and ended the next: thousands of them were too deep for the stack.
    @Test("Many requests that a session has no room for any more end one after the other")
    func noRoomForMany() {
        var suite = Suite { $0.limits.concurrentRequests = 20_000 }
        let most = suite.model.maxPositionEmbeddings
        suite.generate("first", prompt(2), new: Int32(most - 2), session: "s")
        for index in 0..<10_000 { suite.generate("\(index)", prompt(2), session: "s") }
        suite.generate("last", [], session: "s")
        suite.run()
        #expect(suite.ending("first").completed.finishReason == "length")
        #expect((0..<10_000).allSatisfy { suite.ending("\($0)").error.code == "CONTEXT_TOO_LONG" })
        #expect(suite.status().running == 0)
    }

    @Test("No new prompt: the conversation goes on by itself")
    func emptyPrompt() {
        var suite = Suite()
        suite.generate("a", prompt(5), new: 2, session: "s")
        suite.run()
        suite.generate("b", [], new: 2, session: "s")
        suite.run()
        #expect(suite.ending("b").completed.tokens == [19, 22])
        #expect(suite.ending("b").completed.promptDepths.isEmpty)
        suite.generate("c", [], session: "new")
        #expect(suite.ending("c").error.code == "INVALID_ARGUMENT")
    }

    @Test("After no new tokens the last position is computed again with its depth")
    func nothingNew() {
        var suite = Suite("online-1x")
        suite.generate("a", prompt(5), new: 0, session: "s")
        suite.run()
        suite.generate("b", [], new: 1, session: "s")
        #expect(Array(suite.take("decider")[0].item.decider.depths) == [5])
    }

    @Test("Requests of one session run one after the other, each from where the last one ended")
    func queue() {
        var suite = Suite()
        for id in ["a", "b", "c"] { suite.generate(id, [1, 2], new: 1, session: "s") }
        #expect(suite.take("decider").count == 1)
        #expect(suite.status().waiting == 2)
        suite.feed(.tick)
        suite.flush()
        #expect(suite.status().running == 3)
    }

    @Test("A session's queue is served in order")
    func served() {
        var suite = Suite()
        for id in ["a", "b", "c"] { suite.generate(id, [1, 2], new: 1, session: "s") }
        suite.run()
        #expect(suite.ledger.sessions["s"]?.tokens == [1, 2, 4, 1, 2, 13, 1, 2, 22])
        let order = suite.replies.map(\.message).filter { !$0.completed.tokens.isEmpty }.map(\.id)
        #expect(order == ["a", "b", "c"])
    }

    @Test("A request that fails leaves the session as it was before it")
    func failed() {
        var suite = Suite()
        suite.generate("a", prompt(5), new: 1, session: "s")
        suite.run()
        let before = suite.ledger.sessions["s"]
        suite.generate("b", [7, 7, 7], new: 9, session: "s")
        suite.work(until: .core, afterTokens: 2, of: "b")
        suite.send(.cancel("b", id: "c"))
        #expect(suite.ledger.sessions["s"] == before)
        suite.generate("d", [8], new: 1, session: "s")
        suite.run()
        #expect(suite.ledger.sessions["s"]?.tokens == prompt(5) + [13, 8, 19])
    }

    @Test("A waiting request that is cancelled or overdue never runs, the one after it does")
    func waiting() {
        var suite = Suite()
        suite.generate("a", [1], session: "s")
        suite.generate("b", [2], session: "s")
        suite.generate("c", [3], session: "s") { $0.deadlineMs = 10 }
        suite.generate("d", [4], session: "s")
        suite.send(.cancel("b", id: "x"))
        suite.pass(ms: 11)
        suite.run()
        #expect(suite.ending("b").error.code == "CANCELLED")
        #expect(suite.ending("c").error.code == "DEADLINE_EXCEEDED")
        #expect(suite.ledger.sessions["s"]?.tokens == [1, 1, 4, 7])
    }

    @Test("A session that is full refuses more with CONTEXT_TOO_LONG, at once or when its turn comes")
    func full() {
        var suite = Suite()
        suite.generate("a", prompt(250), new: 1, session: "s")
        suite.generate("b", prompt(10), new: 1, session: "s")
        suite.run()
        suite.generate("c", prompt(10), new: 1, session: "s")
        suite.run()
        #expect(suite.ending("a").completed.tokens.count == 1)
        for id in ["b", "c"] { #expect(suite.endings(id).map(\.error.code) == ["CONTEXT_TOO_LONG"]) }
    }

    @Test("The next Router continues a session; a worker that lost it gets it replayed", arguments: [true, false])
    func restart(_ kept: Bool) {
        var suite = Suite("online-1x")
        suite.generate("a", prompt(5), new: 2, session: "s")
        suite.run()
        var next = Suite("online-1x", ledger: suite.ledger)
        if kept { for name in next.players.keys { next.players[name]!.held = suite.players[name]!.held } }
        next.generate("b", [9], new: 2, session: "s")
        next.run()
        #expect(next.ending("b").completed.tokens == [22, 25])
        #expect(next.players["core"]!.computed.first?.position == (kept ? 6 : 0))
        #expect(next.players["core"]!.depths[[1, 3]] == (kept ? nil : [4]))
    }

    @Test("drop_session forgets it everywhere; the name starts anew")
    func drop() {
        var suite = Suite()
        suite.generate("a", prompt(5), session: "s")
        suite.run()
        suite.releases.removeAll()
        suite.send(.drop("s", id: "d"))
        #expect(suite.replies("d").map(\.reply) == [.accepted(.with { $0.durability = "process" })])
        #expect(suite.releases.map(\.drop) == [true, true, true])
        #expect(Set(suite.releases.map(\.session)) == [1])
        #expect(suite.ledger.sessions.isEmpty)
        suite.generate("b", [5], session: "s")
        suite.run()
        #expect(suite.ledger.sessions["s"]?.tokens == [5, 1])
        #expect(suite.ledger.sessions["s"]?.id == 2)
        suite.send(.drop("x", id: "e"))
        #expect(suite.ending("e").error.code == "NOT_FOUND")
    }

    @Test("drop_session cancels what runs and waits in it")
    func dropRunning() {
        var suite = Suite()
        suite.generate("a", [1], session: "s")
        suite.run()
        for id in ["b", "c"] { suite.generate(id, [2], session: "s") }
        suite.flush()
        suite.send(.drop("s", id: "d"))
        suite.run()
        for id in ["b", "c"] { #expect(suite.endings(id).map(\.error.code) == ["CANCELLED"]) }
        #expect(suite.state.activeRequests == 0)
        #expect(suite.ledger.sessions.isEmpty)
    }

    @Test("A list of depths counts from this request's own tokens; the one still due follows the checkpoint's rule")
    func perToken() {
        var suite = Suite()
        suite.generate("a", prompt(5), new: 2, session: "s")
        suite.run()
        suite.generate("b", [9, 9], new: 2, session: "s") {
            $0.generate.depth.policy = "per_token"
            $0.generate.depth.values = [5, 5, 4]
        }
        suite.run()
        #expect(suite.ending("b").completed.promptDepths == [5, 5])
        #expect(suite.ending("b").completed.depths == [5, 4])
        #expect(suite.players["core"]!.depths[[1, 6]] == [2])
    }

    @Test("An unnamed request leaves the workers' memory at its end, not their store")
    func unnamed() {
        var suite = Suite()
        suite.generate("a", prompt(5))
        suite.run()
        #expect(suite.releases.map(\.drop) == [false, false, false])
        #expect(suite.ledger.sessions.isEmpty)
    }

    @Test("Session numbers are set aside before they are used, and never used again by a later Router")
    func numbers() {
        var suite = Suite(ledger: LedgerContents())
        var highest: UInt64 = 0
        for index in 0..<1500 {
            suite.generate("r\(index)", [1], new: 0)
            #expect(suite.reservations.last ?? 0 > UInt64(index + 1))
            highest = max(highest, suite.take("decider").map(\.item.session).max() ?? 0)
            suite.feed(.clientLost(.dealer, slow: true))
        }
        #expect(highest == 1500 && suite.reservations.count == 2)
        var next = Suite(ledger: suite.ledger)
        next.generate("r", [1])
        #expect(next.take("decider")[0].item.session > highest)
    }
}
