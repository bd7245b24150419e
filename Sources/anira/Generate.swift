import ArgumentParser
import Foundation
import Messaging
import Proto
import Router

struct Generate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Continue a prompt, streaming each token with its depth.",
        discussion: "On a terminal --depths colours each token from blue (left early) to red (thought long).")
    @OptionGroup var prompt: PromptOptions
    @OptionGroup var target: TargetOptions
    @OptionGroup var depth: DepthOptions
    @Option(help: "Most new tokens.") var maxNewTokens: Int32 = 16
    @Option(help: "Stop after one of these comma-separated token ids.") var stopTokens: String?
    @Option(help: "Continue the conversation of this name.") var session: String?
    @Option(help: "0 is greedy.") var temperature: Float = 0
    @Option(help: "Draw from the k most probable tokens; 0 is all.") var topK: Int32 = 0
    @Option(help: "Draw from the smallest set of this probability.") var topP: Float = 1
    @Option(parsing: .unconditional, help: "Seed of the draws.") var seed: Int32?
    @Flag(help: "Show the depth of every token, the prompt's too.") var depths = false
    @Flag(help: "Print each reply as a line of JSON.") var json = false

    func validate() throws {
        _ = try stopTokens.map { try integers($0, "--stop-tokens") }
        guard session == nil || !target.local else {
            throw ValidationError("--session needs a running suite: with --local nothing is kept for a next turn")
        }
    }

    func run() throws {
        let painter = DepthPainter()
        let asked = try prompt.prompt()
        var streamed = 0
        let last: (reply: ClientReply, tensors: [Frame])
        do {
            last = try target.run(try request(asked)) { reply in
                if json {
                    printJSON(reply)
                } else if case .token(let token) = reply.reply, !depths {
                    let word = token.text.isEmpty ? "\(token.token)" : token.text
                    show(streamed == 0 ? word : " \(word)")
                    streamed += 1
                }
                try endOutput()
            }
        } catch {
            if streamed > 0 { say("") }  // the error has a line of its own
            throw error
        }
        if json { return printJSON(last.reply) }
        guard case .completed(let result) = last.reply.reply else { return }
        if depths {
            showDepths(result, asked, painter)
        } else {
            let missed = words(of: result).dropFirst(streamed)  // those of a lost connection
            if !missed.isEmpty { show((streamed == 0 ? "" : " ") + missed.joined(separator: " ")) }
            print()
        }
        if result.finishReason == "context" { tell("the model's context is full, no more tokens fit\n") }
    }

    private func request(_ prompt: (text: String, tokens: [Int32])) throws -> ClientRequest {
        var request = ClientRequest()
        request.id = newRequestID("generate")
        (request.generate.text, request.generate.tokens) = prompt
        request.generate.maxNewTokens = maxNewTokens
        request.generate.stopTokens = try stopTokens.map { try integers($0, "--stop-tokens") } ?? []
        request.generate.session = session ?? ""
        request.generate.depth = try depth.message()
        request.generate.sampling.temperature = temperature
        request.generate.sampling.topK = topK
        request.generate.sampling.topP = topP
        if let seed { request.generate.sampling.seed = seed }
        return request
    }

    /// The new tokens in words; ids where the model has none.
    private func words(of result: Anira_V1_Completed) -> [String] {
        result.text.isEmpty ? result.tokens.map(String.init) : result.text.split(separator: " ").map(String.init)
    }

    /// Two lines, or as many pairs as the terminal needs: words, or ids where the prompt is in ids, over the depth each position
    /// spent. The depth under a word is what was spent at its position, that is, on predicting the next word.
    private func showDepths(
        _ result: Anira_V1_Completed, _ asked: (text: String, tokens: [Int32]), _ painter: DepthPainter
    ) {
        let prompt =
            asked.tokens.isEmpty
            ? asked.text.split(whereSeparator: \.isWhitespace).map(String.init) : asked.tokens.map(String.init)
        let new = asked.tokens.isEmpty ? words(of: result) : result.tokens.map(String.init)
        let spent = result.promptDepths + result.depths.dropFirst()
        let columns = zip(prompt + new, spent.map { Optional($0) } + [nil])
        let room = terminalColumns(STDOUT_FILENO)
        var (top, bottom, used) = ("", "", 0)
        for (word, depth) in columns {
            let label = depth.map(String.init) ?? "·"
            let width = max(word.count, label.count)
            if used > 0, used + width >= room {
                print("\(top)\n\(bottom)")
                (top, bottom, used) = ("", "", 0)
            }
            used += width + 1
            top += painter.paint(word, depth) + String(repeating: " ", count: width - word.count + 1)
            bottom += painter.paint(label, depth) + String(repeating: " ", count: width - label.count + 1)
        }
        print(top)
        print(bottom)
        let answer = words(of: result).joined(separator: " ")
        print("answer: \(answer)   mean depth \(String(format: "%.2f", result.usage.meanDepth))")
    }
}

/// Colours from blue (depth 1) over green to red (depth 6 and more).
struct DepthPainter {
    /// On a terminal, unless the environment says NO_COLOR.
    let enabled = isatty(STDOUT_FILENO) != 0 && (ProcessInfo.processInfo.environment["NO_COLOR"] ?? "").isEmpty
    private static let colours = [33, 37, 35, 178, 208, 196]

    func paint(_ text: String, _ depth: Int32?) -> String {
        guard enabled, let depth else { return text }
        let colour = Self.colours[min(max(Int(depth), 1), Self.colours.count) - 1]
        return "\u{1B}[38;5;\(colour)m\(text)\u{1B}[0m"
    }
}
