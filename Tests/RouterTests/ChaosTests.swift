import Messaging
import Proto
import Router
import TestKit
import Testing

/// Random histories: whatever order results come in and whichever worker dies, the ends are those of a quiet run.
@Suite("Whatever happens to workers, clients see the same tokens once")
struct ChaosTests {
    private func begin(_ checkpoint: String, handsOver: Bool) -> Suite {
        var suite = Suite(checkpoint, chunk: 3, window: 3, handsOver: handsOver) {
            $0.maxLosses = 1000
            $0.continuation = 3
        }
        for index in 0..<6 {
            suite.generate("r\(index)", prompt(3 + 4 * index), new: 7, session: index % 3 == 0 ? "s" : "") {
                $0.generate.include.exitDistributions = index % 2 == 0
                if index == 4 {
                    $0.generate.depth.policy = "per_token"
                    $0.generate.depth.values = (0..<20).map { $0 % 4 + 1 }
                }
            }
            suite.send(.score("s\(index)", prompt(2 + 3 * index)))
        }
        return suite
    }

    /// A replay at random may exhaust the limit of replays, so that losses are rare enough.
    @Test(
        "Random orders, losses and partial memories", arguments: ["early-1x", "online-1x"],
        Array(1...25 as ClosedRange<UInt64>))
    func history(_ checkpoint: String, _ seed: UInt64) { history(checkpoint, seed, handsOver: false) }

    @Test(
        "The same when workers hand rows on to each other and some get lost on the way",
        arguments: ["early-1x", "online-1x"], Array(1...50 as ClosedRange<UInt64>))
    func handedOver(_ checkpoint: String, _ seed: UInt64) { history(checkpoint, seed, handsOver: true) }

    private func history(_ checkpoint: String, _ seed: UInt64, handsOver: Bool) {
        var random = SplitMix(state: seed)
        var quiet = begin(checkpoint, handsOver: false)
        quiet.run()
        var suite = begin(checkpoint, handsOver: handsOver)
        var incarnation: UInt64 = 1
        var pending: [String: [(session: UInt64, outcome: Outcome)]] = [:]
        for _ in 0..<5000 where suite.state.activeRequests > 0 {
            let name = ["decider", "core", "coda"].randomElement(using: &random)!
            suite.losesHandOvers = Int.random(in: 0..<20, using: &random) == 0
            if handsOver, Int.random(in: 0..<30, using: &random) == 0 {
                suite.now += 1_500_000_000
                suite.beat(holding: pending.mapValues(\.count))
                suite.feed(.tick)
            }
            let work = suite.take(name)
            pending[name, default: []] += zip(work.map(\.item.session), suite.compute(name, work)).map { ($0, $1) }
            if Int.random(in: 0..<150, using: &random) == 0 {
                incarnation += 1
                if Bool.random(using: &random) { suite.feed(.bye(from: suite.players[name]!.address)) }
                suite.connect(
                    name, suite.players[name]!.stage, incarnation: incarnation, keeping: Bool.random(using: &random))
                pending[name] = []
            } else if !pending[name]!.isEmpty {
                // Decider and coda answer a session's items in order; the core answers whichever leaves first.
                var index = pending[name]!.indices.randomElement(using: &random)!
                if name != "core" {
                    let session = pending[name]![index].session
                    index = pending[name]!.firstIndex { $0.session == session }!
                }
                suite.deliver(name, [pending[name]!.remove(at: index).outcome])
            }
        }
        for index in 0..<6 {
            let (found, expected) = (suite.ending("r\(index)").completed, quiet.ending("r\(index)").completed)
            #expect(suite.endings("r\(index)").count == 1)
            #expect(found.tokens == expected.tokens)
            #expect(found.depths == expected.depths && found.promptDepths == expected.promptDepths)
            #expect(found.exitDistributions == expected.exitDistributions)
            #expect(found.usage == expected.usage)
            #expect(suite.streamed("r\(index)").map(\.token) == expected.tokens)
            #expect(suite.endings("s\(index)").count == 1)
            #expect(suite.ending("s\(index)").scored.logprobs == quiet.ending("s\(index)").scored.logprobs)
        }
        #expect(suite.ledger.sessions["s"]?.tokens == quiet.ledger.sessions["s"]?.tokens)
        #expect(suite.state.activeRequests == 0)
    }
}
