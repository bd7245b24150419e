import ArgumentParser
import Engine
import Foundation
import Kernels
import Model
import Proto

/// What a token costs in this model, and what no engine can beat on this machine.
struct Limits: Codable {
    /// Multiply-adds × 2 of a token: prelude, coda and head once (F₀), and one core iteration (F_c).
    var outsideFlops: Double
    var iterationFlops: Double
    var peakGflops: Double

    init(_ shape: BenchModel, _ peak: Double) {
        let (h, i) = (Double(shape.hidden), Double(shape.intermediate))
        let layer = 2 * (4 * h * h + 3 * h * i)
        outsideFlops = 2 * layer + 2 * h * Double(shape.vocabulary)
        iterationFlops = layer
        peakGflops = peak
    }

    func flops(depth: Double) -> Double { outsideFlops + depth * iterationFlops }

    /// A prompt whose positions take these depths by an online decider: its products after each iteration but the last
    /// possible one and the keys and values of exit states count too, the head once.
    func prompt(_ depths: [Int32], _ shape: BenchModel) -> Double {
        let (h, j, k) = (Double(shape.hidden), Double(shape.intermediate), Int32(shape.maxDepth))
        let (decider, exit, head) = (2 * h * (j + 1), 4 * h * h, 2 * h * Double(shape.vocabulary))
        return depths.reduce(head) { sum, depth in
            sum + flops(depth: Double(depth)) - head + Double(min(depth, k - 1)) * decider + (depth < k ? exit : 0)
        }
    }

    /// Tokens per second that the peak allows.
    func ceiling(depth: Double, threads: Int) -> Double { peakGflops * Double(threads) * 1e9 / flops(depth: depth) }
}

/// A random checkpoint in a temporary folder and a local engine on it.
func withBenchEngine<R>(
    _ shape: BenchModel, _ compute: ComputeOptions, _ body: (Checkpoint, LocalEngine) throws -> R
) throws -> R {
    try withBenchFolder { folder in
        try shape.write(to: folder.path)
        let checkpoint = try compute.checkpoint(folder.path)
        return try body(checkpoint, try LocalEngine(checkpoint, kv: compute.kv))
    }
}

/// A prompt of `length` tokens and `new` more, with a depth policy.
func benchRequest(
    _ id: String, _ shape: BenchModel, length: Int, new: Int, _ depth: (inout Anira_V1_Depth) -> Void
) -> ClientRequest {
    var request = ClientRequest()
    // An id of its own: a repeated one would be answered from memory.
    request.id = "\(UInt32.random(in: 0 ... .max))-\(id)"
    request.generate.tokens = (0..<length).map {
        Int32((id.utf8.reduce(0) { $0 + Int($1) } * 7 + $0 * 13) % shape.vocabulary)
    }
    request.generate.maxNewTokens = Int32(new)
    depth(&request.generate.depth)
    return request
}

extension Anira_V1_Depth {
    mutating func fix(_ depth: Int) { (policy, value) = ("fixed", Int32(depth)) }

    /// Depths 1…2·mean − 1 in turn.
    mutating func mix(mean: Int, count: Int, offset: Int) {
        policy = "per_token"
        values = (0..<count).map { Int32(($0 + offset) % (2 * mean - 1) + 1) }
    }
}

struct BenchBatch: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "batch",
        abstract: "Tokens a second from 1 to 128 sessions, at one depth and mixed, in this process.",
        discussion: """
            "of the limit": the tokens a second that sgemm's peak allows, measured before and after each round's \
            tokens; p50 and p99 are times from one token of a session to its next. "of the ceiling" compares mixed depths with what \
            skipped iterations could save at most: (F₀ + K·F_c) / (F₀ + d̄·F_c) over the measured throughput at depth K.
            """)
    @OptionGroup var shape: BenchModel
    @OptionGroup var compute: ComputeOptions
    @Option(help: "Fixed depth, and mean of the mixed ones.") var depth = 3
    @Option(help: "Comma-separated numbers of sessions.") var sessions = "1,2,4,8,16,32,64,128"
    @Option(help: "New tokens of each session and round.") var tokens = 64
    @Option(help: "Interleaved rounds.") var rounds = 3
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var sessions: Int
        /// Tokens per second, medians of the rounds.
        var fixed: Double
        var mixed: Double
        var deepest: Double
        var shareOfLimit: Double
        var shareOfCeiling: Double
        /// Microseconds between a session's tokens at the fixed depth.
        var p50: Double
        var p99: Double
    }

    private struct Round {
        var peak: Double
        var fixed: Double
        var gaps: DecodeClock
        var mixed: Double
        var deepest: Double
    }

    struct Report: Codable {
        var weights: String
        var threads: Int
        var limits: Limits
        var rows: [Row]
    }

    func validate() throws {
        guard depth >= 1, depth <= (shape.maxDepth + 1) / 2 else {
            throw ValidationError("--depth must be 1…\((shape.maxDepth + 1) / 2)")
        }
        guard (2...1900).contains(tokens), (1...10_000).contains(rounds) else {
            throw ValidationError("--tokens must be 2…1900, --rounds 1…10000")
        }
    }

    func run() throws {
        let counts = try integers(sessions, "--sessions").map(Int.init)
        guard counts.allSatisfy({ (1...1024).contains($0) }), !counts.isEmpty else {
            throw ValidationError("--sessions must be numbers of 1…1024")
        }
        let report = try withBenchEngine(shape, compute) { _, engine in
            var peaks: [Double] = []
            var found: [[Round]] = counts.map { _ in [] }
            for round in 0..<rounds {
                for (index, count) in counts.enumerated() {
                    progress("round \(round + 1) of \(rounds), \(count) sessions")
                    let before = sgemmPeak(1024)
                    let fixed = try measure(engine, count) { depths, _ in depths.fix(depth) }
                    let peak = (before + sgemmPeak(1024)) / 2
                    let mixed = try measure(engine, count) { $0.mix(mean: depth, count: 32 + tokens, offset: $1) }
                    let deepest = try measure(engine, count) { depths, _ in depths.fix(shape.maxDepth) }
                    peaks.append(peak)
                    found[index].append(
                        Round(
                            peak: peak, fixed: try fixed.tokensPerSecond(), gaps: fixed,
                            mixed: try mixed.tokensPerSecond(), deepest: try deepest.tokensPerSecond()))
                }
            }
            progress(nil)
            let limits = Limits(shape, median(peaks))
            let rows = zip(counts, found).map { count, rounds in
                let (mean, k) = (Double(depth), Double(shape.maxDepth))
                let gain = limits.flops(depth: k) / limits.flops(depth: mean)
                return Row(
                    sessions: count, fixed: median(rounds.map(\.fixed)),
                    mixed: median(rounds.map(\.mixed)), deepest: median(rounds.map(\.deepest)),
                    shareOfLimit: median(
                        rounds.map {
                            $0.fixed
                                / Limits(shape, $0.peak).ceiling(depth: mean, threads: compute.threads)
                        }), shareOfCeiling: median(rounds.map { $0.mixed / ($0.deepest * gain) }),
                    p50: median(rounds.map { $0.gaps.gapMicros(50) }),
                    p99: median(rounds.map { $0.gaps.gapMicros(99) }))
            }
            return Report(
                weights: compute.weights.rawValue, threads: compute.threads, limits: limits, rows: rows)
        }
        try show(report)
    }

    private func measure(
        _ engine: LocalEngine, _ count: Int, _ depth: (inout Anira_V1_Depth, Int) -> Void
    ) throws -> DecodeClock {
        try engine.decode(
            (0..<count).map { index in
                benchRequest("batch-\(index)", shape, length: 32, new: tokens) { depth(&$0, index) }
            })
    }

    private func show(_ report: Report) throws {
        if json { return try printJSON(BenchReport(report)) }
        print(heading("weights \(report.weights), \(report.threads) threads"))
        print(String(format: "sgemm peak %.0f GFLOP/s a thread; tokens/s:", report.limits.peakGflops))
        print(
            "sessions   depth \(depth)   of the limit   p50 µs   p99 µs   depths 1…\(2 * depth - 1)   of the ceiling   depth \(shape.maxDepth)"
        )
        for row in report.rows {
            print(
                String(
                    format: "%8d%10.0f%14.0f%%%9.0f%9.0f%13.0f%16.0f%%%10.0f", row.sessions, row.fixed,
                    100 * row.shareOfLimit, row.p50, row.p99, row.mixed, 100 * row.shareOfCeiling, row.deepest))
        }
    }
}

struct BenchPrefill: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prefill", abstract: "Long prompts at adaptive depth, as a share of peak FLOP/s, in this process.")
    @OptionGroup var shape: BenchModel
    @OptionGroup var compute: ComputeOptions
    @Option(help: "Comma-separated lengths of the prompt.") var lengths = "64,512,2000"
    @Option(help: "Interleaved rounds.") var rounds = 5
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var tokens: Int
        var meanDepth: Double
        /// Milliseconds to the first new token.
        var p50: Double
        var p99: Double
        /// Medians: the products' GFLOP/s and their share of the peak.
        var gflops: Double
        var shareOfPeak: Double
    }

    func run() throws {
        let lengths = try integers(lengths, "--lengths").map(Int.init)
        guard lengths.allSatisfy({ (2...2000).contains($0) }), rounds > 0 else {
            throw ValidationError("--lengths must be 2…2000, --rounds above 0")
        }
        let rows = try withBenchEngine(shape, compute) { _, engine in
            try lengths.map { length in
                var times: [Double] = []
                var speeds: [Double] = []
                var shares: [Double] = []
                var depth = 0.0
                for round in 0...rounds {
                    progress("\(length) tokens, round \(round) of \(rounds)")
                    let before = sgemmPeak(1024)
                    let request = benchRequest("prefill-\(round)", shape, length: length, new: 1) { _ in }
                    var answer = ClientReply()
                    let time = seconds { answer = engine.run([request])[0].reply }
                    try answer.check()
                    depth = Double(answer.completed.usage.meanDepth)
                    let depths = answer.completed.promptDepths
                    let limits = Limits(shape, (before + sgemmPeak(1024)) / 2)
                    guard round > 0 else { continue }
                    times.append(time)
                    speeds.append(limits.prompt(depths, shape) / time / 1e9)
                    shares.append(speeds[round - 1] / limits.peakGflops / Double(compute.threads))
                }
                return Row(
                    tokens: length, meanDepth: depth, p50: 1000 * median(times), p99: 1000 * percentile(times, 99),
                    gflops: median(speeds), shareOfPeak: median(shares))
            }
        }
        progress(nil)
        if json { return try printJSON(BenchReport(rows)) }
        print(heading("weights \(compute.weights.rawValue), \(compute.threads) threads"))
        print("prompt   mean depth     p50 ms    p99 ms   GFLOP/s   of sgemm's peak")
        for row in rows {
            print(
                String(
                    format: "%6d%13.2f%11.1f%10.1f%10.1f%17.0f%%", row.tokens, row.meanDepth, row.p50, row.p99,
                    row.gflops, 100 * row.shareOfPeak))
        }
    }
}

struct BenchContext: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "context",
        abstract: "Time of a token by the length of its context, one session, in this process.",
        discussion: """
            "by bytes": how much more a token has to read, weights, keys and values, than at the first context.
            """)
    @OptionGroup var shape: BenchModel
    @OptionGroup var compute: ComputeOptions
    @Option(help: "Fixed depth of every token.") var depth = 3
    @Option(help: "Comma-separated context lengths; the first is what the others are compared with.")
    var contexts = "64,256,1024"
    @Option(help: "New tokens of each round.") var tokens = 32
    @Option(help: "Interleaved rounds.") var rounds = 5
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var context: Int
        /// Microseconds a token, median of the rounds, and percentiles of the time from one to the next.
        var micros: Double
        var p50: Double
        var p99: Double
        /// Over the first context's time, median of the rounds, and what the bytes read make of it.
        var ratio: Double
        var byBytes: Double
    }

    func run() throws {
        let contexts = try integers(contexts, "--contexts").map(Int.init)
        guard depth >= 1, depth <= shape.maxDepth else { throw ValidationError("--depth must be 1…\(shape.maxDepth)") }
        guard contexts.allSatisfy({ (2...1900).contains($0) }), !contexts.isEmpty, (1...10_000).contains(rounds),
            (2...100).contains(tokens)
        else { throw ValidationError("--contexts must be 2…1900, --tokens 2…100, --rounds 1…10000") }
        let rows = try withBenchEngine(shape, compute) { checkpoint, engine in
            var found: [[DecodeClock]] = []
            for round in 0..<rounds {
                found.append(
                    try contexts.map { context in
                        progress("round \(round + 1) of \(rounds), context \(context)")
                        let length = max(1, context - tokens / 2)
                        return try engine.decode([
                            benchRequest("c\(round)", shape, length: length, new: tokens) { $0.fix(depth) }
                        ])
                    })
            }
            let micros = try found.map { try $0.map { 1e6 / (try $0.tokensPerSecond()) } }
            let weights = Double(try WeightFloor.bytes(checkpoint, depth: depth))
            let position = Double((depth + 2) * 2 * shape.hidden * compute.kv.size)
            let bytes = contexts.map { weights + Double($0) * position }
            return contexts.indices.map { index in
                Row(
                    context: contexts[index], micros: median(micros.map { $0[index] }),
                    p50: median(found.map { $0[index].gapMicros(50) }),
                    p99: median(found.map { $0[index].gapMicros(99) }),
                    ratio: median(micros.map { $0[index] / $0[0] }), byBytes: bytes[index] / bytes[0])
            }
        }
        progress(nil)
        if json { return try printJSON(BenchReport(rows)) }
        print(heading("weights \(compute.weights.rawValue), kv \(compute.kv.rawValue), depth \(depth)"))
        print("context   µs a token    p50    p99   over the first   by bytes")
        for row in rows {
            print(
                String(
                    format: "%7d%13.0f%7.0f%7.0f%16.2f×%10.2f×", row.context, row.micros, row.p50, row.p99, row.ratio,
                    row.byBytes))
        }
    }
}
