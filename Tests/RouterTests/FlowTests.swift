import Foundation
import Proto
import Router
import Testing

/// What happens when nothing goes wrong.
@Suite("A request moves in chunks through decider, core and coda")
struct FlowTests {
    @Test("It is accepted, streams its tokens and ends in exactly one completed", arguments: ["early-1x", "online-1x"])
    func generation(_ checkpoint: String) {
        var suite = Suite(checkpoint)
        suite.generate("r", prompt(5), new: 3)
        suite.run()
        #expect(suite.replies("r").count == 5)
        #expect(suite.replies("r").first?.accepted.durability == "process")
        #expect(suite.streamed("r").map(\.token) == [13, 16, 19])
        #expect(suite.streamed("r").map(\.index) == [0, 1, 2])
        #expect(suite.endings("r").count == 1)
        let completed = suite.ending("r").completed
        #expect(completed.tokens == [13, 16, 19])
        #expect(completed.promptDepths == [1, 2, 3, 4, 5])
        #expect(completed.depths == [5, 1, 2])
        #expect(suite.streamed("r").map(\.depth) == completed.depths)
        #expect(completed.finishReason == "length")
        #expect(suite.state.activeRequests == 0)
    }

    @Test("Usage counts each computed position once; the last new token is not computed")
    func usage() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 3)
        suite.run()
        let usage = suite.ending("r").completed.usage
        #expect((usage.promptTokens, usage.newTokens, usage.coreIterations) == (5, 3, 1 + 2 + 3 + 4 + 5 + 1 + 2))
        #expect(usage.meanDepth == Float(18) / 7)
        for player in suite.players.values { #expect(player.computed.map(\.position) == Array(0..<7)) }
    }

    @Test(
        "A REQ client gets one reply and nothing else, whatever it asks for",
        arguments: [nil, true, false] as [Bool?])
    func req(_ stream: Bool?) {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 3, from: .req) { if let stream { $0.generate.stream = stream } }
        suite.run()
        #expect(suite.replies.count == 1)
        #expect(suite.ending("r").completed.tokens.count == 3)
    }

    @Test("A DEALER that does not want a stream gets accepted and completed")
    func unstreamed() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 3) { $0.generate.stream = false }
        suite.run()
        #expect(suite.replies("r").count == 2)
        #expect(suite.streamed("r").isEmpty)
    }

    @Test("No new tokens: the prompt is computed and completed at once")
    func nothingNew() {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(5), new: 0)
        suite.run()
        #expect(suite.ending("r").completed.tokens.isEmpty)
        #expect(suite.ending("r").completed.promptDepths == [1, 2, 3, 4, 5])
        #expect(suite.ending("r").completed.depths.isEmpty)
    }

    @Test("A stop token ends the generation and is its last token")
    func stop() {
        var suite = Suite()
        suite.generate("r", prompt(5), new: 9) { $0.generate.stopTokens = [16] }
        suite.run()
        #expect(suite.ending("r").completed.tokens == [13, 16])
        #expect(suite.ending("r").completed.finishReason == "stop")
    }

    @Test("A full context ends the generation")
    func context() {
        var suite = Suite()
        suite.generate("r", prompt(254), new: 9)
        suite.run()
        #expect(suite.ending("r").completed.tokens.count == 3)
        #expect(suite.ending("r").completed.finishReason == "context")
    }

    @Test("A prompt is cut in chunks, and no more than the window are between decider and coda")
    func window() {
        var suite = Suite(chunk: 3, window: 2)
        suite.generate("r", prompt(11))
        let first = suite.take("decider")
        #expect(first.map(\.item.position) == [0, 3])
        #expect(first.map(\.item.count) == [3, 3])
        #expect(first.map(\.item.decider.tokens) == [[0, 1, 2], [3, 4, 5]])
        suite.answer("decider", first)
        suite.answer("core", suite.take("core"))
        #expect(suite.take("decider").isEmpty)
        let coda = suite.take("coda")
        suite.answer("coda", [coda[0]])
        #expect(suite.take("decider").map(\.item.position) == [6])
        suite.answer("coda", [coda[1]])
        let last = suite.take("decider")
        #expect(last.map(\.item.position) == [9])
        #expect(last.map(\.item.count) == [2])
    }

    @Test("Only the last chunk of a prompt is sampled")
    func sampling() {
        var suite = Suite(chunk: 3)
        suite.generate("r", prompt(8)) { $0.generate.sampling.temperature = 0.5 }
        suite.answer("decider", suite.take("decider"))
        suite.answer("core", suite.take("core"))
        let work = suite.take("coda")
        #expect(work.map(\.item.coda.sample) == [false, false, true])
        #expect(work[2].item.coda.sampling.temperature == 0.5)
    }

    @Test("Core results that come out of order reach the coda in order")
    func order() {
        var suite = Suite(chunk: 2)
        suite.generate("r", prompt(8))
        suite.answer("decider", suite.take("decider"))
        let outcomes = suite.compute("core", suite.take("core"))
        suite.deliver("core", [outcomes[3], outcomes[1]])
        #expect(suite.take("coda").isEmpty)
        suite.deliver("core", [outcomes[0]])
        #expect(suite.take("coda").map(\.item.position) == [0, 2])
        suite.deliver("core", [outcomes[2]])
        #expect(suite.take("coda").map(\.item.position) == [4, 6])
    }

    @Test("A list of depths is followed across chunks, and past the prompt as far as it goes")
    func perToken() {
        var suite = Suite(chunk: 3)
        suite.generate("r", prompt(7), new: 4) {
            $0.generate.depth.policy = "per_token"
            $0.generate.depth.values = [5, 4, 3, 2, 1, 5, 4, 3, 2]
        }
        suite.run()
        #expect(suite.ending("r").completed.promptDepths == [5, 4, 3, 2, 1, 5, 4])
        #expect(suite.ending("r").completed.depths == [4, 3, 2, 5])
    }

    @Test("One fixed depth for every position, with the checkpoint's decider left aside")
    func fixed() {
        var suite = Suite("online-1x", chunk: 2)
        suite.generate("r", prompt(3), new: 2) {
            $0.generate.depth.policy = "fixed"
            $0.generate.depth.value = 2
        }
        suite.run()
        #expect(suite.ending("r").completed.promptDepths == [2, 2, 2])
        #expect(suite.ending("r").completed.depths == [2, 2])
    }

    @Test("score is one pass with n − 1 log-probabilities, n depths and its logits in one frame")
    func score() {
        var suite = Suite(chunk: 2)
        suite.send(.score("r", [7, 8, 9, 10, 11]) { $0.score.include.logits = true }, from: .req)
        suite.run()
        let scored = suite.ending("r").scored
        #expect(scored.logprobs == [-8, -9, -10, -11])
        #expect(scored.depths == [1, 2, 3, 4, 5])
        #expect(scored.logits.shape == [5, Int32(suite.model.vocabSize)])
        let row = suite.model.vocabSize * 4
        #expect(suite.replies[0].tensors[0].bytes == [0, 0, 2, 2, 4].flatMap { [UInt8](repeating: $0, count: row) })
    }

    /// The worker's connection broke over a frame beyond what its receiver takes, ten times.
    @Test("Logits that no frame holds are refused before anything runs")
    func scoreTooLarge() {
        var suite = Suite { $0.limits.tensorBytes = $0.model.vocabSize * 4 * 3 }
        suite.send(.score("r", [7, 8, 9, 10]) { $0.score.include.logits = true })
        #expect(suite.ending("r").error.code == "INVALID_ARGUMENT")
        #expect(suite.ending("r").error.message.hasPrefix("score.include.logits"))
        suite.send(.score("s", [7, 8, 9]) { $0.score.include.logits = true })
        suite.run()
        #expect(suite.ending("s").scored.logits.shape == [3, Int32(suite.model.vocabSize)])
    }

    @Test("A single token is scored: no log-probability, one depth")
    func scoreOne() {
        var suite = Suite()
        suite.send(.score("r", [7]))
        suite.run()
        #expect(suite.ending("r").scored.depths == [1])
        #expect(suite.ending("r").scored.logprobs.isEmpty)
    }

    @Test("Exit distributions and log-probabilities come only when asked for", arguments: ["early-1x", "online-1x"])
    func include(_ checkpoint: String) {
        var suite = Suite(checkpoint, chunk: 2)
        suite.generate("plain", prompt(3), new: 2)
        suite.generate("full", prompt(3), new: 2) {
            $0.generate.include.exitDistributions = true
            $0.generate.include.logprobs = true
        }
        suite.run()
        let (plain, full) = (suite.ending("plain").completed, suite.ending("full").completed)
        #expect(plain.exitDistributions.isEmpty && plain.logprobs.isEmpty)
        #expect(full.logprobs == [-2, -3])
        #expect(full.exitDistributions.map(\.values.count) == (checkpoint == "early-1x" ? [5, 5] : [3, 4]))
        #expect(suite.streamed("full").map(\.exitDistribution.count) == full.exitDistributions.map(\.values.count))
    }

    @Test("Rows of many sessions travel in one message")
    func together() {
        var suite = Suite()
        for index in 0..<10 { suite.generate("r\(index)", prompt(3)) }
        let work = suite.take("decider")
        #expect(work.count == 10)
        #expect(Set(work.map(\.item.session)).count == 10)
    }

    @Test("A worker is handed no more than its credit, but always something")
    func credit() {
        var suite = Suite(workers: [.core, .coda])
        let bytes = 64 + 3 * 4
        suite.connect("decider", .decider, credit: UInt32(2 * bytes))
        for index in 0..<5 { suite.generate("r\(index)", prompt(3)) }
        let first = suite.take("decider")
        #expect(first.count == 2)
        #expect(suite.take("decider").isEmpty)
        suite.answer("decider", [first[0]])
        #expect(suite.take("decider").count == 1)
        suite.connect("decider", .decider, incarnation: 2, credit: 1)
        #expect(suite.take("decider").count == 1)
    }
}
