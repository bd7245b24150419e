import ArgumentParser
import Engine
import Foundation
import Kernels
import Messaging
import Model
import Proto

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

    /// One session and many, in this process or through the services.
    struct Figures: Codable {
        /// Microseconds a token of one session, tokens per second of many.
        var micros: Double
        var batchTokens: Double
        /// Microseconds between two tokens of a session, one alone and many.
        var p50, p99, batchP50, batchP99: Double

        init(one: DecodeClock, many: DecodeClock) throws {
            micros = 1e6 / (try one.tokensPerSecond())
            batchTokens = try many.tokensPerSecond()
            (p50, p99) = (one.gapMicros(50), one.gapMicros(99))
            (batchP50, batchP99) = (many.gapMicros(50), many.gapMicros(99))
        }

        /// Medians of each.
        init(_ rounds: [Figures]) {
            micros = median(rounds.map(\.micros))
            batchTokens = median(rounds.map(\.batchTokens))
            (p50, p99) = (median(rounds.map(\.p50)), median(rounds.map(\.p99)))
            (batchP50, batchP99) = (median(rounds.map(\.batchP50)), median(rounds.map(\.batchP99)))
        }

        /// Tokens per second of many sessions over those of one.
        var batchGain: Double { batchTokens * micros / 1e6 }
    }

    private struct Round {
        var floorMicros: Double
        var local: Figures
        var suite: Figures?
    }

    /// Medians of the rounds. The gains are tokens per second of many sessions over those of one.
    struct Report: Codable {
        var weights: String
        var kv: String
        var threads: Int
        var depth: Int
        var sessions: Int
        var floorMicros: Double
        var local: Figures
        /// Local engine, batch 1, over the time to read the touched weights once.
        var localOverFloor: Double
        var localBatchGain: Double
        var suite: Figures?
        /// Suite over local engine, batch 1.
        var suiteOverLocal: Double?
        var suiteBatchGain: Double?
    }

    func validate() throws {
        guard depth >= 1, depth <= shape.maxDepth else { throw ValidationError("--depth must be 1…\(shape.maxDepth)") }
        guard (1...512).contains(sessions), (2...1900).contains(tokens), (1...10_000).contains(rounds) else {
            throw ValidationError("--sessions must be 1…512, --tokens 2…1900, --rounds 1…10000")
        }
    }

    func run() throws { try withBenchFolder(measure) }

    private func measure(_ folder: URL) throws {
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
        let one = requests(1, "one-\(number)")
        let many = requests(sessions, "many-\(number)")
        let before = floor.micros(repeats: 10)
        let local = try engine.decode(one)
        let floorMicros = min(before, floor.micros(repeats: 10))
        let served = try suite?.decode(one)
        let localMany = try engine.decode(many)
        let servedMany = try suite?.decode(many)
        return Round(
            floorMicros: floorMicros, local: try Figures(one: local, many: localMany),
            suite: try served.flatMap { one in try servedMany.map { try Figures(one: one, many: $0) } })
    }

    private func requests(_ count: Int, _ id: String) -> [ClientRequest] {
        (0..<count).map { benchRequest("\(id)-\($0)", shape, length: 32, new: tokens) { $0.fix(depth) } }
    }

    private func report(_ rounds: [Round]) -> Report {
        let pairs = rounds.compactMap { round in round.suite.map { (local: round.local, suite: $0) } }
        return Report(
            weights: compute.weights.rawValue, kv: compute.kv.rawValue, threads: compute.threads, depth: depth,
            sessions: sessions, floorMicros: median(rounds.map(\.floorMicros)), local: Figures(rounds.map(\.local)),
            localOverFloor: median(rounds.map { $0.local.micros / $0.floorMicros }),
            localBatchGain: median(rounds.map(\.local.batchGain)),
            suite: pairs.isEmpty ? nil : Figures(pairs.map(\.suite)),
            suiteOverLocal: pairs.isEmpty ? nil : median(pairs.map { $0.suite.micros / $0.local.micros }),
            suiteBatchGain: pairs.isEmpty ? nil : median(pairs.map(\.suite.batchGain)))
    }

    private func show(_ report: Report) throws {
        if json { return try printJSON(BenchReport(report)) }
        print(
            heading(
                "H \(shape.hidden), I \(shape.intermediate), \(shape.heads) heads, K \(shape.maxDepth), depth \(depth), "
                    + "weights \(report.weights), kv \(report.kv), \(report.threads) threads a process"))
        print(String(format: "  weights' read time      %8.0f µs a token", report.floorMicros))
        let local = report.local
        print(
            String(
                format: "  local engine, 1 session %8.0f µs a token    %.2f× the read time    p50 %.0f, p99 %.0f µs",
                local.micros, report.localOverFloor, local.p50, local.p99))
        print(
            String(
                format: "  local engine, %2d        %8.0f tokens/s      %.1f× one session        p50 %.0f, p99 %.0f µs",
                sessions, local.batchTokens, report.localBatchGain, local.batchP50, local.batchP99))
        guard let suite = report.suite, let over = report.suiteOverLocal, let gain = report.suiteBatchGain else {
            return
        }
        print(
            String(
                format: "  suite, 1 session        %8.0f µs a token    %.2f× the local engine p50 %.0f, p99 %.0f µs",
                suite.micros, over, suite.p50, suite.p99))
        print(
            String(
                format: "  suite, %2d sessions      %8.0f tokens/s      %.1f× one session        p50 %.0f, p99 %.0f µs",
                sessions, suite.batchTokens, gain, suite.batchP50, suite.batchP99))
    }
}

/// Reads as many weight bytes as one token touches, in the model's order: nothing can decode faster at batch 1
/// from the same memory.
struct WeightFloor: ~Copyable {
    private let parts: [(memory: UnsafeMutablePointer<Float>, count: Int, passes: Int)]

    /// Bytes of each part, and how often a token of this depth touches them.
    private static func sizes(_ checkpoint: Checkpoint, depth: Int) throws -> [(bytes: Int, passes: Int)] {
        [
            (try Prelude(checkpoint).weightBytes, 1), (try RecurrentCore(checkpoint).weightBytes, depth),
            (try Coda(checkpoint).weightBytes, 1),
        ]
    }

    /// Bytes of weights that a token of this depth touches.
    static func bytes(_ checkpoint: Checkpoint, depth: Int) throws -> Int {
        try sizes(checkpoint, depth: depth).reduce(0) { $0 + $1.bytes * $1.passes }
    }

    init(_ checkpoint: Checkpoint, depth: Int) throws {
        parts = try Self.sizes(checkpoint, depth: depth).map { bytes, passes in
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
