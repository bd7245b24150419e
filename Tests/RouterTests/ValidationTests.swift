import Proto
import Router
import Testing

/// Each bad field is refused by name before anything runs.
@Suite("Bad requests are refused naming the field")
struct ValidationTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let field: String
        var checkpoint = "early-1x"
        var code = "INVALID_ARGUMENT"
        let change: @Sendable (inout ClientRequest) -> Void
        var testDescription: String { field }
    }

    static let generate: [Case] = [
        Case(field: "id") { $0.id = "" },
        Case(field: "id") { $0.id = String(repeating: "é", count: 33) },
        Case(field: "deadline_ms") { $0.deadlineMs = 0 },
        Case(field: "deadline_ms") { $0.deadlineMs = -5 },
        Case(field: "operation") { $0.operation = nil },
        Case(field: "generate.tokens") { $0.generate.tokens = [] },
        Case(field: "generate.tokens[2]") { $0.generate.tokens[2] = -1 },
        Case(field: "generate.tokens[0]") { $0.generate.tokens[0] = 37 },
        Case(field: "generate.tokens", code: "CONTEXT_TOO_LONG") { $0.generate.tokens = prompt(257) },
        Case(field: "generate.text") { $0.generate.text = "word" },
        Case(field: "generate.text") {
            $0.generate.tokens = []
            $0.generate.text = "no-such-word"
        },
        Case(field: "generate.max_new_tokens") { $0.generate.maxNewTokens = -1 },
        Case(field: "generate.stop_tokens[1]") { $0.generate.stopTokens = [1, 99] },
        Case(field: "generate.session") { $0.generate.session = String(repeating: "s", count: 65) },
        Case(field: "generate.depth.policy") { $0.generate.depth.policy = "deepest" },
        Case(field: "generate.depth.policy", checkpoint: "online-1x") { $0.generate.depth.policy = "argmax" },
        Case(field: "generate.depth.policy", checkpoint: "online-1x") { $0.generate.depth.policy = "mean" },
        Case(field: "generate.depth.value") { $0.generate.depth.policy = "fixed" },
        Case(field: "generate.depth.value") { $0.generate.depth.value = 2 },
        Case(field: "generate.depth.value") { $0.fix(0) },
        Case(field: "generate.depth.value") { $0.fix(6) },
        Case(field: "generate.depth.values") { $0.generate.depth.values = [1, 1, 1] },
        Case(field: "generate.depth.values") { $0.list([1, 1]) },
        Case(field: "generate.depth.values") { $0.list([1, 1, 1, 1, 1, 1]) },
        Case(field: "generate.depth.values[1]") { $0.list([1, 0, 1]) },
        Case(field: "generate.depth.values[2]") { $0.list([1, 1, 300]) },
        Case(field: "generate.depth.threshold") { $0.generate.depth.threshold = 0.5 },
        Case(field: "generate.depth.threshold") { $0.threshold(1.5) },
        Case(field: "generate.depth.threshold") { $0.threshold(-0.1) },
        Case(field: "generate.depth.threshold") { $0.threshold(.nan) },
        Case(field: "generate.depth.min") { $0.generate.depth.min = 0 },
        Case(field: "generate.depth.max") { $0.generate.depth.max = 6 },
        Case(field: "generate.depth.min") {
            $0.generate.depth.min = 4
            $0.generate.depth.max = 3
        },
        Case(field: "generate.sampling.temperature") { $0.generate.sampling.temperature = -1 },
        Case(field: "generate.sampling.temperature") { $0.generate.sampling.temperature = .infinity },
        Case(field: "generate.sampling.temperature") { $0.generate.sampling.temperature = .nan },
        Case(field: "generate.sampling.top_k") { $0.generate.sampling.topK = -1 },
        Case(field: "generate.sampling.top_p") { $0.generate.sampling.topP = 0 },
        Case(field: "generate.sampling.top_p") { $0.generate.sampling.topP = 1.01 },
        Case(field: "generate.sampling.seed") { $0.generate.sampling.seed = -1 },
        Case(field: "generate.include.logits") { $0.generate.include.logits = true },
    ]

    static let score: [Case] = [
        Case(field: "score.tokens") { $0.score.tokens = [] },
        Case(field: "score.tokens[1]") { $0.score.tokens[1] = 37 },
        Case(field: "score.tokens", code: "CONTEXT_TOO_LONG") { $0.score.tokens = prompt(257) },
        Case(field: "score.depth.values") {
            $0.score.depth.policy = "per_token"
            $0.score.depth.values = [1, 1, 1, 1]
        },
        Case(field: "cancel.id") { $0.cancel.id = "unknown" }.coded("NOT_FOUND"),
        Case(field: "result.id") { $0.result.id = "unknown" }.coded("NOT_FOUND"),
        Case(field: "drop_session.session") { $0.dropSession.session = "" },
        Case(field: "drop_session.session") { $0.dropSession.session = "unknown" }.coded("NOT_FOUND"),
    ]

    @Test("A generation with a bad field", arguments: generate)
    func generation(_ bad: Case) { check(bad, .generate("r", prompt(3), new: 2)) }

    @Test("Another operation with a bad field", arguments: score)
    func other(_ bad: Case) { check(bad, .score("r", prompt(3))) }

    private func check(_ bad: Case, _ good: ClientRequest) {
        var suite = Suite(bad.checkpoint)
        var request = good
        bad.change(&request)
        suite.send(request)
        #expect(suite.replies.count == 1)
        let error = suite.replies[0].message.error
        #expect(error.code == bad.code)
        #expect(error.message.hasPrefix("\(bad.field):"), "\(error.message)")
        #expect(suite.replies[0].message.id == request.id)
        #expect(suite.state.activeRequests == 0 && suite.counters.rejected == 1)
        suite.send(good)
        suite.run()
        #expect(suite.state.activeRequests == 0 && suite.counters.completed == 1, "the next good one is served")
    }

    @Test("The limits themselves are allowed")
    func limits() {
        var suite = Suite()
        suite.generate(String(repeating: "i", count: 64), prompt(256), new: 1)
        suite.generate("a", [0, 36], new: 0, session: String(repeating: "s", count: 64))
        suite.generate("b", prompt(3), new: 2) { $0.list([5, 1, 5, 1, 5]) }
        suite.generate("c", prompt(3)) { $0.threshold(0) }
        suite.generate("d", prompt(3)) { $0.threshold(1) }
        suite.run()
        #expect(suite.counters.completed == 5)
    }
}

extension ValidationTests.Case {
    func coded(_ code: String) -> Self {
        var copy = self
        copy.code = code
        return copy
    }
}

extension ClientRequest {
    fileprivate mutating func fix(_ depth: Int32) {
        generate.depth.policy = "fixed"
        generate.depth.value = depth
    }

    fileprivate mutating func list(_ depths: [Int32]) {
        generate.depth.policy = "per_token"
        generate.depth.values = depths
    }

    fileprivate mutating func threshold(_ q: Float) {
        generate.depth.policy = "cdf"
        generate.depth.threshold = q
    }
}
