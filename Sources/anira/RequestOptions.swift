import ArgumentParser
import Client
import Engine
import Foundation
import Messaging
import Model
import Proto
import Router
import Synchronization

/// Where a request runs: the live suite, or the same engine in this process.
struct TargetOptions: ParsableArguments {
    @Option(help: "The suite's client endpoint.") var endpoint = "tcp://127.0.0.1:5555"
    @Flag(help: "Run in this process instead, without services; needs --model.") var local = false
    @Option(help: "Checkpoint folder, with --local.") var model: String?
    @Option(help: "Give up after so many seconds without a reply; the first must come within 5.") var timeout = 60.0
    @OptionGroup(title: "With --local") var compute: ComputeOptions

    func validate() throws {
        guard local == (model != nil) else {
            throw ValidationError(
                local ? "--local needs --model DIR" : "--model is for --local: a running suite has its own")
        }
        guard local || compute.isDefault else {
            throw ValidationError("--weights, --kv and --threads are for --local: a running suite has its own")
        }
        try checkEndpoint(endpoint, "--endpoint")
        try checkTimeout(timeout)
    }

    /// Runs one request; `onReply` sees what comes before the last reply, which is returned. An error reply throws.
    func run(
        _ request: ClientRequest, onReply: (ClientReply) throws -> Void = { _ in }
    ) throws -> (reply: ClientReply, tensors: [Frame]) {
        let last: (reply: ClientReply, tensors: [Frame])
        if local {
            let engine = try LocalEngine(try compute.checkpoint(model ?? ""), kv: compute.kv, residentMiB: 256)
            let all = engine.replies(to: request)
            try all.dropLast().forEach { try onReply($0.reply) }
            last = all.last ?? (ClientReply(), [])
        } else {
            let client = try Client(endpoint: endpoint, context: Context())
            last = try cancelling(client) { try client.run(request, seconds: timeout, onReply: onReply) }
        }
        try last.reply.check()
        return last
    }
}

/// Runs `body`. When it ends early (a signal, a reader that is gone, silence) what the client has asked for is cancelled,
/// since nobody would read the answers; a signal then ends this process.
func cancelling<R>(_ client: Client, _ body: () throws -> R) throws -> R {
    let interruption = client.interruption
    let signals = StopSignals(supervised: false) { _ in interruption.raise() }
    defer { signals.cancel() }
    do {
        return try body()
    } catch {
        do { try client.cancelOpen(seconds: 2) } catch { tell("the request may run on: \(error)\n") }
        if signals.last != 0 { Foundation.exit(128 + signals.last) }
        throw error
    }
}

/// An error reply of the suite.
struct RequestFailure: Error, CustomStringConvertible {
    let code: String
    let message: String
    var description: String { "\(code): \(message)" }
}

extension ClientReply {
    /// Throws what an error reply says.
    func check() throws {
        if case .error(let error) = reply { throw RequestFailure(code: error.code, message: error.message) }
    }
}

extension LocalEngine {
    /// All replies to one request, the last one last.
    func replies(to request: ClientRequest) -> [(reply: ClientReply, tensors: [Frame])] {
        submit(request)
        var replies = take(request.id)
        while !(replies.last?.reply.isLast ?? false), step() { replies += take(request.id) }
        return replies + take(request.id)
    }
}

/// The depth dial.
struct DepthOptions: ParsableArguments {
    @Option(
        help: """
            Depth policy: model (the default), fixed, per_token, argmax, cdf, mean. --depth, --token-depths or --threshold \
            alone say which.
            """)
    var policy: String?
    @Option(help: "fixed: the depth of every token.") var depth: Int32?
    @Option(name: .customLong("token-depths"), help: "per_token: comma-separated depths, one a token.")
    var tokenDepths: String?
    @Option(help: "cdf: leave once the cumulative exit probability reaches this, 0…1.") var threshold: Float?
    @Option(help: "Least depth.") var minDepth: Int32?
    @Option(help: "Greatest depth.") var maxDepth: Int32?

    func validate() throws { _ = try message() }

    func message() throws -> Anira_V1_Depth {
        var message = Anira_V1_Depth()
        message.policy = policy ?? implied
        if let depth { message.value = depth }
        if let tokenDepths { message.values = try integers(tokenDepths, "--token-depths") }
        if let threshold { message.threshold = threshold }
        if let minDepth { message.min = minDepth }
        if let maxDepth { message.max = maxDepth }
        return message
    }

    private var implied: String {
        if depth != nil { return "fixed" }
        if tokenDepths != nil { return "per_token" }
        return threshold != nil ? "cdf" : "model"
    }

    /// A point of the threshold dial between the same bounds.
    func message(threshold: Float) throws -> Anira_V1_Depth {
        var message = try message()
        (message.policy, message.threshold) = ("cdf", threshold)
        message.clearValue()
        message.values = []
        return message
    }

    /// As on the command line: `cdf, threshold 0.5, min 2`.
    func words() throws -> String {
        let message = try message()
        let settings = [
            message.hasValue ? "depth \(message.value)" : nil,
            message.hasThreshold ? "threshold \(message.threshold)" : nil,
            message.hasMin ? "min \(message.min)" : nil, message.hasMax ? "max \(message.max)" : nil,
        ]
        return ([message.policy] + settings.compactMap { $0 }).joined(separator: ", ")
    }
}

/// The prompt: text, or token ids.
struct PromptOptions: ParsableArguments {
    @Argument(help: "The prompt, words separated by spaces; - reads standard input.") var text: String?
    @Option(help: "The prompt as comma-separated token ids instead.") var tokens: String?

    func validate() throws {
        guard text == nil || tokens == nil else { throw ValidationError("give a text or --tokens, not both") }
        _ = try tokens.map { try integers($0, "--tokens") }
    }

    /// Reads standard input where the text is -: once.
    func prompt() throws -> (text: String, tokens: [Int32]) {
        if let tokens { return ("", try integers(tokens, "--tokens")) }
        if text == "-" {
            do {
                return (String(decoding: try FileHandle.standardInput.readToEnd() ?? Data(), as: UTF8.self), [])
            } catch {
                throw ValidationError("cannot read standard input: \(String(cString: strerror(errno)))")
            }
        }
        return (text ?? "", [])
    }
}

func integers(_ list: String, _ option: String) throws -> [Int32] {
    guard !list.isEmpty else { return [] }
    return try list.split(separator: ",", omittingEmptySubsequences: false).map {
        guard let value = Int32($0.trimmingCharacters(in: .whitespaces)) else {
            throw ValidationError("\(option): '\($0)' is not a number; give e.g. 1,2,3")
        }
        return value
    }
}

func newRequestID(_ kind: String) -> String {
    "\(kind)-\(getpid())-\(String(UInt64.random(in: 0 ... .max), radix: 36))"
}

/// The reply as one line of JSON, in the client API's form.
func printJSON(_ reply: ClientReply) {
    let address = ClientAddress(routingID: [], isREQ: false, isJSON: true)
    say(String(decoding: ClientCodec.encode(reply, tensors: [], to: address)[0].bytes, as: UTF8.self))
}

/// errno of the last text that could not be written; 0: none.
private let outputFailure = Atomic<Int32>(0)

/// Text on standard output, at once: pipes would hold `print` back.
func show(_ text: String) {
    print(text, terminator: "")
    flushOutput()
}

/// Text on standard error, at once. What cannot be told there does not stop the work.
func tell(_ text: String) { _ = Array(text.utf8).withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) } }

private func flushOutput() {
    if fflush(nil) != 0 { outputFailure.store(errno, ordering: .relaxed) }
}

/// Writes what is pending; throws when it, or anything before, could not be written.
func endOutput() throws {
    flushOutput()
    let failure = outputFailure.load(ordering: .relaxed)
    if failure != 0 { throw LineOutput.Failure(code: failure) }
}

/// A line on standard output, at once.
func say(_ line: String) { show("\(line)\n") }

func checkTimeout(_ seconds: Double) throws {
    guard seconds > 0, seconds <= 1e6 else { throw ValidationError("--timeout must be above 0, at most 1000000") }
}

/// A value as JSON with sorted keys.
func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    print(String(decoding: try encoder.encode(value), as: UTF8.self))
}
