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
        _ request: ClientRequest, onReply: (ClientReply) -> Void = { _ in }
    ) throws -> (reply: ClientReply, tensors: [Frame]) {
        let last: (reply: ClientReply, tensors: [Frame])
        if local {
            let engine = try LocalEngine(try compute.checkpoint(model ?? ""), kv: compute.kv, residentMiB: 256)
            let all = engine.replies(to: request)
            all.dropLast().forEach { onReply($0.reply) }
            last = all.last ?? (ClientReply(), [])
        } else {
            last = try ask(request, onReply)
        }
        if case .error(let error) = last.reply.reply { throw RequestFailure(code: error.code, message: error.message) }
        return last
    }
}

extension TargetOptions {
    private func ask(
        _ request: ClientRequest, _ onReply: (ClientReply) -> Void
    ) throws -> (reply: ClientReply, tensors: [Frame]) {
        let interruption = Interruption(request, endpoint)
        defer { interruption?.end() }
        let client = try Client(endpoint: endpoint, context: Context())
        return try client.run(request, seconds: timeout, onReply: onReply)
    }
}

/// Ctrl-C, SIGTERM and a closed terminal end a request that would otherwise run on without anyone to read it, and then this
/// process.
private final class Interruption: @unchecked Sendable {  // the sources are made once, and safe to cancel anywhere
    private var sources: [any DispatchSourceSignal] = []
    /// The signal; 0: none.
    private let raised = Atomic<Int32>(0)

    /// nil for what is answered at once.
    init?(_ request: ClientRequest, _ endpoint: String) {
        switch request.operation {
        case .generate, .score: break
        default: return nil
        }
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { [self] in
                raised.store(number, ordering: .releasing)
                cancel(request.id, endpoint)
            }
            source.resume()
            sources.append(source)
        }
    }

    private func cancel(_ id: String, _ endpoint: String) {
        do {
            let client = try Client(endpoint: endpoint, context: Context())
            let cancel = ClientRequest.with {
                $0.id = newRequestID("cancel")
                $0.cancel.id = id
            }
            _ = try client.run(cancel, seconds: 2)  // the request's own end is next
        } catch {
            tell("the request may run on: \(error)\n")
            exitIfRaised()
        }
    }

    func end() {
        for source in sources { source.cancel() }
        exitIfRaised()
    }

    private func exitIfRaised() {
        let number = raised.load(ordering: .acquiring)
        if number != 0 { Foundation.exit(128 + number) }
    }
}

/// An error reply of the suite.
struct RequestFailure: Error, CustomStringConvertible {
    let code: String
    let message: String
    var description: String { "\(code): \(message)" }
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
    @Option(help: "Depth policy: model, fixed, per_token, argmax, cdf, mean. --depth alone means fixed.") var policy =
        "model"
    @Option(help: "fixed: the depth of every token.") var depth: Int32?
    @Option(name: .customLong("token-depths"), help: "per_token: comma-separated depths, one a token.")
    var tokenDepths: String?
    @Option(help: "cdf: leave once the cumulative exit probability reaches this, 0…1.") var threshold: Float?
    @Option(help: "Least depth.") var minDepth: Int32?
    @Option(help: "Greatest depth.") var maxDepth: Int32?

    func validate() throws { _ = try message() }

    func message() throws -> Anira_V1_Depth {
        var message = Anira_V1_Depth()
        message.policy = depth != nil && policy == "model" ? "fixed" : policy
        if let depth { message.value = depth }
        if let tokenDepths { message.values = try integers(tokenDepths, "--token-depths") }
        if let threshold { message.threshold = threshold }
        if let minDepth { message.min = minDepth }
        if let maxDepth { message.max = maxDepth }
        return message
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
    if failure != 0 { throw LineOutput.Failure.failed(code: failure) }
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
