import ArgumentParser
import Foundation
import Proto
import Router

struct ScoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "score", abstract: "Log-probability and depth of every token of a text.",
        discussion: """
            A token's log-probability comes from the position before it; its depth is that of its own position, \
            which predicts the next token.
            """)
    @OptionGroup var prompt: PromptOptions
    @OptionGroup var target: TargetOptions
    @OptionGroup var depth: DepthOptions
    @Flag(help: "Print the reply as a line of JSON.") var json = false
    @Flag(help: "With --json: each token's exit distribution too.") var distributions = false

    func validate() throws {
        guard json || !distributions else { throw ValidationError("--distributions needs --json") }
    }

    func run() throws {
        let (text, tokens) = try prompt.prompt()
        var request = ClientRequest()
        request.id = newRequestID("score")
        request.score.text = text
        request.score.tokens = tokens
        request.score.depth = try depth.message()
        request.score.include.exitDistributions = distributions
        let last = try target.run(request)
        if json { return printJSON(last.reply) }
        guard case .scored(let scored) = last.reply.reply else { return }
        let words =
            tokens.isEmpty ? text.split(whereSeparator: \.isWhitespace).map(String.init) : tokens.map(String.init)
        let painter = DepthPainter()
        let width = max(5, words.map(\.count).max() ?? 0)
        print("token".padding(toLength: width, withPad: " ", startingAt: 0) + "  depth   logprob")
        for (index, word) in words.enumerated() where index < scored.depths.count {
            let logprob = index == 0 ? "        " : String(format: "%8.4f", scored.logprobs[index - 1])
            let padded = word.padding(toLength: width, withPad: " ", startingAt: 0)
            print(
                "\(painter.paint(padded, scored.depths[index]))  \(String(format: "%5d", scored.depths[index]))  \(logprob)"
            )
        }
        let total = scored.logprobs.reduce(0, +)
        print(
            String(
                format: "total %.4f over %d tokens, mean depth %.2f", total, scored.logprobs.count,
                scored.usage.meanDepth))
    }
}
