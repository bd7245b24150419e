import ArgumentParser
import COpenBLAS
import Client
import Engine
import Foundation
import Histogram
import Kernels
import Messaging
import Model
import Proto

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure the engine against the machine's own limits; every result is a ratio of one run.",
        discussion: """
            Absolute times drift on shared machines, so limit and engine are measured interleaved, round by round, and \
            the medians of the rounds' ratios are what counts.
            """,
        subcommands: [
            BenchKernels.self, BenchDecode.self, BenchBatch.self, BenchPrefill.self, BenchContext.self,
            BenchStore.self, BenchTransport.self, BenchSuite.self, BenchWeights.self, BenchTrain.self, BenchEcho.self,
        ],
        defaultSubcommand: BenchDecode.self)
}

/// Shape of the measured model: random weights.
struct BenchModel: ParsableArguments {
    @Option(help: "Hidden size H.") var hidden = 512
    @Option(help: "Feed-forward size I.") var intermediate = 2048
    @Option(help: "Attention heads.") var heads = 8
    @Option(help: "Most core iterations K.") var maxDepth = 6
    @Option(help: "Vocabulary.") var vocabulary = 128

    /// Writes the checkpoint into `folder`.
    func write(to folder: String) throws {
        let json = """
            {"vocab_size": \(vocabulary), "hidden_size": \(hidden), "intermediate_size": \(intermediate),
             "num_attention_heads": \(heads), "num_prelude_layers": 1, "num_core_layers": 1, "num_coda_layers": 1,
             "max_depth": \(maxDepth), "max_position_embeddings": 2048, "decider": "online"}
            """
        let configuration = try ModelConfiguration(json: Data(json.utf8), path: "the benchmark's configuration")
        try CheckpointWriter.write(
            configuration, tensors: CheckpointWriter.random(configuration, seed: 1), to: folder)
    }
}

struct BenchDecode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decode",
        abstract: "One session and many, in one process and through the services, against the weights' read time.")
    @OptionGroup var shape: BenchModel
    @Option(help: "Fixed depth of every token.") var depth = 3
    @Option(help: "Concurrent sessions of the batch measurements.") var sessions = 32
    @Option(help: "New tokens of each session and round.") var tokens = 64
    @Option(help: "Interleaved rounds.") var rounds = 5
    @OptionGroup var compute: ComputeOptions
    @Flag(help: "Leave the services out.") var localOnly = false
    @Flag(help: "Print the results as JSON.") var json = false

    struct Round: Codable {
        var floorMicros = 0.0
        var localMicros = 0.0
        var localBatchTokens = 0.0
        var suiteMicros = 0.0
        var suiteBatchTokens = 0.0
        /// Between two tokens of a session, one alone and many.
        var localP50 = 0.0, localP99 = 0.0, localBatchP50 = 0.0, localBatchP99 = 0.0
        var suiteP50 = 0.0, suiteP99 = 0.0, suiteBatchP50 = 0.0, suiteBatchP99 = 0.0
    }

    struct Report: Codable {
        var machine: String
        var commit: String
        var kernels: String
        var depth: Int
        var sessions: Int
        var medians: Round
        /// Local engine, batch 1, over the time to read the touched weights once.
        var localOverFloor: Double
        /// Local engine's tokens per second, many sessions over one.
        var localBatchGain: Double
        /// Suite over local engine, batch 1.
        var suiteOverLocal: Double?
        /// Suite's tokens per second, many sessions over one.
        var suiteBatchGain: Double?
    }

    func validate() throws {
        guard depth >= 1, depth <= shape.maxDepth else { throw ValidationError("--depth must be 1…\(shape.maxDepth)") }
        guard sessions > 0, tokens > 1, rounds > 0 else {
            throw ValidationError("--sessions, --tokens and --rounds must be above 0")
        }
    }

    func run() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("anira-bench-\(getpid())")
        defer {
            do { try FileManager.default.removeItem(at: folder) } catch {
                print("cannot remove \(folder.path): \(error)")
            }
        }
        let model = folder.appendingPathComponent("model").path
        try shape.write(to: model)
        let checkpoint = try compute.checkpoint(model)
        let engine = try LocalEngine(checkpoint, kv: compute.kv)
        let floor = try WeightFloor(checkpoint, depth: depth)
        let suite =
            localOnly
            ? nil
            : try SuiteUnderTest(
                model: model, data: folder.appendingPathComponent("data").path,
                arguments: [
                    "--weights", compute.weights.rawValue, "--kv", compute.kv.rawValue, "--threads",
                    "\(compute.threads)",
                ])
        defer { suite?.stop() }
        var measured: [Round] = []
        for round in 0..<rounds {
            progress("round \(round + 1) of \(rounds)")
            measured.append(try measure(round, floor, engine, suite))
        }
        progress(nil)
        try show(report(measured))
    }

    private func measure(
        _ number: Int, _ floor: borrowing WeightFloor, _ engine: LocalEngine, _ suite: SuiteUnderTest?
    ) throws -> Round {
        var round = Round()
        let one = requests(1, "one-\(number)")
        let many = requests(sessions, "many-\(number)")
        let before = floor.micros(repeats: 10)
        let local = try engine.decode(one)
        round.floorMicros = min(before, floor.micros(repeats: 10))
        let served = try suite?.decode(one)
        let localMany = try engine.decode(many)
        let servedMany = try suite?.decode(many)
        round.localMicros = 1e6 / (try local.tokensPerSecond())
        round.localBatchTokens = try localMany.tokensPerSecond()
        (round.localP50, round.localP99) = (local.gapMicros(50), local.gapMicros(99))
        (round.localBatchP50, round.localBatchP99) = (localMany.gapMicros(50), localMany.gapMicros(99))
        if let served, let servedMany {
            round.suiteMicros = 1e6 / (try served.tokensPerSecond())
            round.suiteBatchTokens = try servedMany.tokensPerSecond()
            (round.suiteP50, round.suiteP99) = (served.gapMicros(50), served.gapMicros(99))
            (round.suiteBatchP50, round.suiteBatchP99) = (servedMany.gapMicros(50), servedMany.gapMicros(99))
        }
        return round
    }

    private func requests(_ count: Int, _ id: String) -> [ClientRequest] {
        (0..<count).map { index in
            var request = ClientRequest()
            request.id = "\(id)-\(index)"
            request.generate.tokens = (0..<32).map { Int32((index * 7 + $0 * 13) % shape.vocabulary) }
            request.generate.maxNewTokens = Int32(tokens)
            request.generate.depth.policy = "fixed"
            request.generate.depth.value = Int32(depth)
            return request
        }
    }

    private func report(_ rounds: [Round]) -> Report {
        var middle = Round()
        let figures: [WritableKeyPath<Round, Double>] = [
            \.floorMicros, \.localMicros, \.localBatchTokens, \.suiteMicros, \.suiteBatchTokens, \.localP50, \.localP99,
            \.localBatchP50, \.localBatchP99, \.suiteP50, \.suiteP99, \.suiteBatchP50, \.suiteBatchP99,
        ]
        for figure in figures { middle[keyPath: figure] = median(rounds.map { $0[keyPath: figure] }) }
        return Report(
            machine: machineName(), commit: commitName(), kernels: String(cString: anira_kernels_variant()),
            depth: depth, sessions: sessions, medians: middle,
            localOverFloor: median(rounds.map { $0.localMicros / $0.floorMicros }),
            localBatchGain: median(rounds.map { $0.localBatchTokens * $0.localMicros / 1e6 }),
            suiteOverLocal: localOnly ? nil : median(rounds.map { $0.suiteMicros / $0.localMicros }),
            suiteBatchGain: localOnly ? nil : median(rounds.map { $0.suiteBatchTokens * $0.suiteMicros / 1e6 }))
    }

    private func show(_ report: Report) throws {
        if json { return try printJSON(report) }
        let m = report.medians
        print("machine \(report.machine), kernels \(report.kernels), commit \(report.commit)")
        print(
            "H=\(shape.hidden) I=\(shape.intermediate) heads=\(shape.heads) K=\(shape.maxDepth), depth \(depth), one thread a process"
        )
        print(String(format: "  weights' read time      %8.0f µs a token", m.floorMicros))
        print(
            String(
                format: "  local engine, 1 session %8.0f µs a token    %.2f× the read time    p50 %.0f, p99 %.0f µs",
                m.localMicros, report.localOverFloor, m.localP50, m.localP99))
        print(
            String(
                format: "  local engine, %2d        %8.0f tokens/s      %.1f× one session        p50 %.0f, p99 %.0f µs",
                sessions, m.localBatchTokens, report.localBatchGain, m.localBatchP50, m.localBatchP99))
        if let over = report.suiteOverLocal, let gain = report.suiteBatchGain {
            print(
                String(
                    format:
                        "  suite, 1 session        %8.0f µs a token    %.2f× the local engine p50 %.0f, p99 %.0f µs",
                    m.suiteMicros, over, m.suiteP50, m.suiteP99))
            print(
                String(
                    format:
                        "  suite, %2d sessions      %8.0f tokens/s      %.1f× one session        p50 %.0f, p99 %.0f µs",
                    sessions, m.suiteBatchTokens, gain, m.suiteBatchP50, m.suiteBatchP99))
        }
    }
}

/// Reads as many weight bytes as one token touches, in the model's order: nothing can decode faster at batch 1
/// from the same memory.
struct WeightFloor: ~Copyable {
    private let parts: [(memory: UnsafeMutablePointer<Float>, count: Int, passes: Int)]

    init(_ checkpoint: Checkpoint, depth: Int) throws {
        let sizes = [
            (try Prelude(checkpoint).weightBytes, 1), (try RecurrentCore(checkpoint).weightBytes, depth),
            (try Coda(checkpoint).weightBytes, 1),
        ]
        parts = sizes.map { bytes, passes in
            guard let memory = anira_allocate(bytes / 4) else { fatalError("out of memory") }
            memory.update(repeating: 1, count: bytes / 4)
            return (memory, bytes / 4, passes)
        }
    }

    deinit { for part in parts { anira_release(part.memory, part.count) } }

    /// The fastest of `repeats` passes, after one to warm up.
    func micros(repeats: Int) -> Double {
        var best = Double.infinity
        for _ in 0...repeats {
            let start = monotonicNanoseconds()
            for part in parts {
                for _ in 0..<part.passes { blackHole(anira_sum(part.memory, part.count)) }
            }
            best = min(best, Double(monotonicNanoseconds() - start) / 1000)
        }
        return best
    }
}

@inline(never) func blackHole(_ value: Float) { if value.isNaN { print("") } }

func progress(_ text: String?) {
    guard isatty(STDERR_FILENO) != 0 else { return }
    FileHandle.standardError.write(Data("\r\u{1B}[K\(text ?? "")".utf8))
}

func machineName() -> String {
    let info = FileManager.default.contents(atPath: "/proc/cpuinfo").map { String(decoding: $0, as: UTF8.self) } ?? ""
    let line = info.split(separator: "\n").first { $0.hasPrefix("model name") }
    let name = line?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown"
    return "\(name), \(ProcessInfo.processInfo.activeProcessorCount) cores"
}

/// The commit the measured tree is at, when it is a git checkout.
func commitName() -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["git", "rev-parse", "--short", "HEAD"]
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = Pipe()
    do {
        try process.run()
        process.waitUntilExit()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        return process.terminationStatus == 0 ? text.trimmingCharacters(in: .whitespacesAndNewlines) : "unknown"
    } catch {
        return "unknown"
    }
}

/// Tokens per second of requests run together, and the times between one's tokens: from the moment every one has its
/// first new token, so that no prompt is counted, to the first one's end, so that all run all the time.
struct DecodeClock {
    /// When each request had its newest token.
    private var newest: [String: UInt64] = [:]
    private var counted = 0
    private var start: UInt64 = 0
    private var end: UInt64 = 0
    private let total: Int
    private var isOver = false
    /// Nanoseconds.
    private var gaps = Histogram<UInt64>(highestTrackableValue: 600_000_000_000)

    init(_ requests: Int) { total = requests }

    mutating func see(_ id: String) {
        let now = monotonicNanoseconds()
        if let before = newest.updateValue(now, forKey: id) {
            guard newest.count == total, !isOver else { return }
            counted += 1
            end = now
            if before >= start { gaps.record(now - before) }
        } else if newest.count == total {
            start = now
        }
    }

    /// A request has ended.
    mutating func finish() { isOver = true }

    func tokensPerSecond() throws -> Double {
        guard counted > 0 else {
            throw RequestFailure(
                code: "INVALID_ARGUMENT", message: "the first session ended before the last one began; raise --tokens")
        }
        return Double(counted) / (Double(end - start) / 1e9)
    }

    /// Microseconds from one token of a session to its next: percentile 0…100.
    func gapMicros(_ percentile: Double) -> Double { Double(gaps.valueAtPercentile(percentile)) / 1000 }
}

extension LocalEngine {
    func tokensPerSecond(_ requests: [ClientRequest]) throws -> Double { try decode(requests).tokensPerSecond() }

    func decode(_ requests: [ClientRequest]) throws -> DecodeClock {
        var clock = DecodeClock(requests.count)
        for request in requests { submit(request) }
        var open = Set(requests.map(\.id))
        while !open.isEmpty {
            _ = step()
            for request in requests {
                for (reply, _) in take(request.id) {
                    if case .token = reply.reply { clock.see(reply.id) }
                    if case .error(let error) = reply.reply {
                        throw RequestFailure(code: error.code, message: error.message)
                    }
                    if reply.isLast {
                        clock.finish()
                        open.remove(reply.id)
                    }
                }
            }
        }
        return clock
    }
}

/// The real services, started for a measurement.
final class SuiteUnderTest {
    private let process = Process()
    let endpoint: String

    init(model: String, data: String, arguments: [String]) throws {
        endpoint = "tcp://127.0.0.1:\(Int.random(in: 20000..<30000))"
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["up", "--model", model, "--data", data, "--endpoint", endpoint] + arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        guard !output.fileHandleForReading.availableData.isEmpty else {
            throw RequestFailure(code: "UNAVAILABLE", message: "the suite did not start")
        }
    }

    func tokensPerSecond(_ requests: [ClientRequest]) throws -> Double { try decode(requests).tokensPerSecond() }

    func decode(_ requests: [ClientRequest]) throws -> DecodeClock {
        let client = try Client(endpoint: endpoint, context: Context())
        var clock = DecodeClock(requests.count)
        for request in requests { try client.send(request) }
        var open = Set(requests.map(\.id))
        while !open.isEmpty {
            let (reply, _) = try client.receive(seconds: 60)
            if case .token = reply.reply { clock.see(reply.id) }
            if case .error(let error) = reply.reply { throw RequestFailure(code: error.code, message: error.message) }
            if reply.isLast {
                clock.finish()
                open.remove(reply.id)
            }
        }
        return clock
    }

    func stop() {
        process.terminate()
        process.waitUntilExit()
    }
}
