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
        var weights: String
        var kv: String
        var threads: Int
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
        (0..<count).map { benchRequest("\(id)-\($0)", shape, length: 32, new: tokens) { $0.fix(depth) } }
    }

    private func report(_ rounds: [Round]) -> Report {
        var middle = Round()
        let figures: [WritableKeyPath<Round, Double>] = [
            \.floorMicros, \.localMicros, \.localBatchTokens, \.suiteMicros, \.suiteBatchTokens, \.localP50, \.localP99,
            \.localBatchP50, \.localBatchP99, \.suiteP50, \.suiteP99, \.suiteBatchP50, \.suiteBatchP99,
        ]
        for figure in figures { middle[keyPath: figure] = median(rounds.map { $0[keyPath: figure] }) }
        return Report(
            weights: compute.weights.rawValue, kv: compute.kv.rawValue, threads: compute.threads, depth: depth,
            sessions: sessions, medians: middle,
            localOverFloor: median(rounds.map { $0.localMicros / $0.floorMicros }),
            localBatchGain: median(rounds.map { $0.localBatchTokens * $0.localMicros / 1e6 }),
            suiteOverLocal: localOnly ? nil : median(rounds.map { $0.suiteMicros / $0.localMicros }),
            suiteBatchGain: localOnly ? nil : median(rounds.map { $0.suiteBatchTokens * $0.suiteMicros / 1e6 }))
    }

    private func show(_ report: Report) throws {
        if json { return try printJSON(BenchReport(report)) }
        let m = report.medians
        print(
            heading(
                "H \(shape.hidden), I \(shape.intermediate), \(shape.heads) heads, K \(shape.maxDepth), depth \(depth), "
                    + "weights \(report.weights), kv \(report.kv), \(report.threads) threads a process"))
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
