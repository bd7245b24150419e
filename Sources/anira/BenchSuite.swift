import ArgumentParser
import Client
import Engine
import Foundation
import Histogram
import Kernels
import Messaging
import Model
import Proto

struct BenchSuite: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "suite",
        abstract:
            "The services against the local engine: one session, many, store on and off, more cores, open-loop load.",
        discussion: """
            One session is measured with one thread a process on both sides, many sessions with as many threads as there \
            are cores on both sides, and two core workers against one with one thread each. Open-loop load sends \
            requests at a fixed rate, whether or not earlier ones are answered, and reports times to the first token and \
            of whole requests from when each should have been sent. "beside prompts" is the time between the tokens of \
            eight sessions, alone and while two prompts of 1,024 tokens are always in work.
            """)
    @OptionGroup var shape: BenchModel
    @OptionGroup var rows: RowOptions
    @Option(help: "Most positions of one prompt chunk.") var chunk = 64
    @Option(help: "How weights are held: f32, bf16 or int8.") var weights = WeightFormat.f32
    @Option(help: "Fixed depth of every token.") var depth = 3
    @Option(help: "Sessions together.") var sessions = 64
    @Option(help: "New tokens of each session.") var tokens = 64
    @Option(help: "Interleaved rounds.") var rounds = 3
    @Option(help: "Seconds of open-loop load at each rate; 0 leaves it out.") var seconds = 10.0
    @Flag(help: "Print the results as JSON.") var json = false

    struct Load: Codable {
        /// Of the requests a second of a closed loop, prompts included.
        var share: Double
        var requestsPerSecond: Double
        /// Milliseconds from when a request was due.
        var firstTokenP50, firstTokenP99, wholeP50, wholeP99, wholeP999: Double
        var completed: Int
    }

    struct Report: Codable {
        var weights: String
        /// Microseconds a token, one session, and from one token to the next.
        var localMicros = 0.0
        var suiteMicros = 0.0
        var localP50 = 0.0, localP99 = 0.0, suiteP50 = 0.0, suiteP99 = 0.0
        var roundTripMicros = 0.0
        /// (suite − local) in raw round trips: median of the rounds.
        var extraRoundTrips = 0.0
        var suiteOverLocal = 0.0
        /// Tokens per second of many sessions, and median ratios.
        var localTokens = 0.0
        var suiteTokens = 0.0
        var localManyP50 = 0.0, localManyP99 = 0.0, suiteManyP50 = 0.0, suiteManyP99 = 0.0
        var suiteShareOfLocal = 0.0
        var storeOnOverOff = 0.0
        var oneCoreTokens = 0.0
        var twoCoresOverOne = 0.0
        var load: [Load] = []
        /// Milliseconds between two tokens of eight sessions, alone and beside long prompts; medians of the rounds.
        var gapAloneP50 = 0.0, gapAloneP99 = 0.0, gapBesideP50 = 0.0, gapBesideP99 = 0.0
        /// Prompt tokens a second meanwhile.
        var promptTokens = 0.0
    }

    func validate() throws {
        guard depth >= 1, depth <= shape.maxDepth else { throw ValidationError("--depth must be 1…\(shape.maxDepth)") }
        guard (1...512).contains(sessions), (2...1900).contains(tokens), (1...10_000).contains(rounds),
            (0...86_400).contains(seconds)
        else {
            throw ValidationError("--sessions must be 1…512, --tokens 2…1900, --rounds 1…10000, --seconds 0…86400")
        }
    }

    func run() throws { try withBenchFolder(measure) }

    private func measure(_ folder: URL) throws {
        let model = folder.appendingPathComponent("model").path
        try shape.write(to: model)
        let bench = Services(
            folder: folder, model: model,
            arguments: ["--weights", weights.rawValue, "--chunk", "\(chunk)"] + rows.arguments)
        let engine = try LocalEngine(try Checkpoint(directory: model, weights: weights))
        var report = Report(weights: weights.rawValue)
        try measureOne(engine, bench, &report)
        try measureMany(engine, bench, &report)
        try measureCores(bench, &report)
        progress(nil)
        try show(report)
    }

    private struct Services {
        let folder: URL
        let model: String
        let arguments: [String]

        /// Runs the services for a measurement; only what is compared is alive together.
        func with<R>(_ name: String, _ more: [String], _ body: (SuiteUnderTest) throws -> R) throws -> R {
            let suite = try SuiteUnderTest(
                model: model, data: folder.appendingPathComponent(name).path,
                arguments: arguments + more)
            defer { suite.stop() }
            return try body(suite)
        }
    }

    private func rounds<R>(_ what: String, _ body: (Int) throws -> R) rethrows -> [R] {
        try (0..<rounds).map { round in
            progress("\(what), round \(round + 1) of \(rounds)")
            return try body(round)
        }
    }

    /// One session, one thread a process, beside raw round trips.
    private func measureOne(_ engine: LocalEngine, _ services: Services, _ report: inout Report) throws {
        let echo = try EchoProcess(tcp: false)
        defer { echo.stop() }
        anira_set_threads(1)
        let found = try services.with("one", ["--threads", "1"]) { suite in
            try rounds("one session") { round in
                let one = requests(1, "one-\(round)", depth)
                return (
                    local: try engine.decode(one), trip: try echo.rawMicros(bytes: shape.hidden * 4, count: 500),
                    suite: try suite.decode(one)
                )
            }
        }
        let micros = try found.map {
            (local: 1e6 / (try $0.local.tokensPerSecond()), suite: 1e6 / (try $0.suite.tokensPerSecond()))
        }
        report.localMicros = median(micros.map(\.local))
        report.suiteMicros = median(micros.map(\.suite))
        (report.localP50, report.localP99) = gaps(found.map(\.local))
        (report.suiteP50, report.suiteP99) = gaps(found.map(\.suite))
        report.roundTripMicros = median(found.map(\.trip))
        report.suiteOverLocal = median(micros.map { $0.suite / $0.local })
        report.extraRoundTrips = median(zip(micros, found).map { ($0.suite - $0.local) / $1.trip })
    }

    /// Microseconds from one token to the next, medians of the rounds.
    private func gaps(_ clocks: [DecodeClock]) -> (p50: Double, p99: Double) {
        (median(clocks.map { $0.gapMicros(50) }), median(clocks.map { $0.gapMicros(99) }))
    }

    /// Many sessions, every process with as many threads as there are cores; store on and off; open-loop load.
    private func measureMany(_ engine: LocalEngine, _ services: Services, _ report: inout Report) throws {
        let cores = ProcessInfo.processInfo.activeProcessorCount
        let threads = ["--threads", "\(cores)"]
        anira_set_threads(Int32(cores))
        try services.with("on", threads) { on in
            let found = try services.with("off", threads + ["--memory-only"]) { off in
                try rounds("\(sessions) sessions") { round in
                    (
                        local: try engine.decode(requests(sessions, "local-\(round)", depth)),
                        on: try on.decode(requests(sessions, "on-\(round)", depth)),
                        off: try off.tokensPerSecond(requests(sessions, "off-\(round)", depth))
                    )
                }
            }
            let rates = try found.map {
                (local: try $0.local.tokensPerSecond(), on: try $0.on.tokensPerSecond(), off: $0.off)
            }
            report.localTokens = median(rates.map(\.local))
            report.suiteTokens = median(rates.map(\.on))
            (report.localManyP50, report.localManyP99) = gaps(found.map(\.local))
            (report.suiteManyP50, report.suiteManyP99) = gaps(found.map(\.on))
            report.suiteShareOfLocal = median(rates.map { $0.on / $0.local })
            report.storeOnOverOff = median(rates.map { $0.on / $0.off })
            try measurePrompts(on, &report)
            guard seconds > 0 else { return }
            progress("closed loop, whole requests")
            let time = try anira.seconds { _ = try on.decode(requests(4 * sessions, "whole", depth)) }
            report.load = try load(on, requestsPerSecond: Double(4 * sessions) / time)
        }
    }

    /// Eight sessions that decode, alone and beside long prompts.
    private func measurePrompts(_ suite: SuiteUnderTest, _ report: inout Report) throws {
        let found = try rounds("beside prompts") { round in
            (
                alone: try decode(suite, "alone-\(round)", beside: 0).clock,
                beside: try decode(suite, "beside-\(round)", beside: 2)
            )
        }
        report.gapAloneP50 = median(found.map { $0.alone.gapMicros(50) / 1000 })
        report.gapAloneP99 = median(found.map { $0.alone.gapMicros(99) / 1000 })
        report.gapBesideP50 = median(found.map { $0.beside.clock.gapMicros(50) / 1000 })
        report.gapBesideP99 = median(found.map { $0.beside.clock.gapMicros(99) / 1000 })
        report.promptTokens = median(found.map(\.beside.promptTokens))
    }

    /// prompts: how many long ones are always in work meanwhile.
    private func decode(
        _ suite: SuiteUnderTest, _ id: String, beside prompts: Int
    ) throws -> (clock: DecodeClock, promptTokens: Double) {
        let client = try Client(endpoint: suite.endpoint, context: Context())
        let length = 1024
        let decoding = (0..<8).map { index in
            benchRequest("\(id)-\(index)", shape, length: 32, new: tokens) { $0.fix(depth) }
        }
        var clock = DecodeClock(decoding.count)
        var open = Set(decoding.map(\.id))
        var sent: Set<String> = []
        var answered = 0
        func prompt() throws {
            let request = benchRequest("\(id)-prompt", shape, length: length, new: 1) { $0.fix(depth) }
            sent.insert(request.id)
            try client.send(request)
        }
        for _ in 0..<prompts { try prompt() }
        for request in decoding { try client.send(request) }
        let start = monotonicNanoseconds()
        var rate = 0.0
        while !open.isEmpty || !sent.isEmpty {
            let (reply, _) = try client.receive(seconds: 60)
            if case .token = reply.reply, open.contains(reply.id) { clock.see(reply.id) }
            try reply.check()
            guard reply.isLast else { continue }
            if open.remove(reply.id) != nil { clock.finish() }
            guard sent.remove(reply.id) != nil else { continue }
            if !open.isEmpty {
                answered += 1
                rate = Double(answered * length) / (Double(monotonicNanoseconds() - start) / 1e9)
                try prompt()
            }
        }
        return (clock, rate)
    }

    /// Two core workers against one, a thread each, at the deepest depth.
    private func measureCores(_ services: Services, _ report: inout Report) throws {
        let found = try services.with("single", ["--threads", "1"]) { one in
            try services.with("double", ["--threads", "1", "--cores", "2"]) { two in
                try rounds("two core workers") { round in
                    let deep = requests(sessions, "deep-\(round)", shape.maxDepth)
                    return (one: try one.tokensPerSecond(deep), two: try two.tokensPerSecond(deep))
                }
            }
        }
        report.oneCoreTokens = median(found.map(\.one))
        report.twoCoresOverOne = median(found.map { $0.two / $0.one })
    }

    private func requests(_ count: Int, _ id: String, _ depth: Int) -> [ClientRequest] {
        (0..<count).map { index in
            benchRequest("\(id)-\(index)", shape, length: 32, new: tokens) { $0.fix(depth) }
        }
    }

    // MARK: - Open loop

    private func load(_ suite: SuiteUnderTest, requestsPerSecond: Double) throws -> [Load] {
        try [0.25, 0.5, 0.8].map { share in
            progress("open loop at \(Int(share * 100)) % of the throughput")
            return try load(suite, share, rate: share * requestsPerSecond)
        }
    }

    private func load(_ suite: SuiteUnderTest, _ share: Double, rate: Double) throws -> Load {
        let client = try Client(endpoint: suite.endpoint, context: Context())
        let total = max(1, Int(rate * seconds))
        let start = monotonicNanoseconds()
        func due(_ index: Int) -> UInt64 { start + UInt64(Double(index) / rate * 1e9) }
        var first = Histogram<UInt64>(highestTrackableValue: 600_000_000_000)
        var whole = first
        var (sent, ended) = (0, 0)
        var started: Set<String> = []
        while ended < total {
            while sent < total, monotonicNanoseconds() >= due(sent) {
                try client.send(
                    benchRequest("load-\(share)-\(sent)", shape, length: 32, new: tokens) { $0.fix(depth) })
                sent += 1
            }
            let wait = sent < total ? max(0.0002, (Double(due(sent)) - Double(monotonicNanoseconds())) / 1e9) : 60
            guard let (reply, _) = try client.receiveIfAny(seconds: wait) else {
                if sent < total { continue }
                throw ClientError.noMore(seconds: wait)
            }
            guard let index = reply.id.split(separator: "-").last.flatMap({ Int($0) }) else { continue }
            let time = monotonicNanoseconds() - due(index)
            if case .token = reply.reply, started.insert(reply.id).inserted { first.record(time) }
            try reply.check()
            if reply.isLast {
                whole.record(time)
                ended += 1
            }
        }
        return Load(
            share: share, requestsPerSecond: rate, firstTokenP50: first.micros(50) / 1000,
            firstTokenP99: first.micros(99) / 1000, wholeP50: whole.micros(50) / 1000,
            wholeP99: whole.micros(99) / 1000, wholeP999: whole.micros(99.9) / 1000, completed: ended)
    }

    private func show(_ r: Report) throws {
        if json { return try printJSON(BenchReport(r)) }
        print(heading("weights \(r.weights), depth \(depth)"))
        print(
            String(
                format: "one session      local %.0f µs, suite %.0f µs a token: %.2f×", r.localMicros, r.suiteMicros,
                r.suiteOverLocal))
        print(
            String(
                format: "                 between tokens p50, p99: local %.0f, %.0f µs, suite %.0f, %.0f µs",
                r.localP50,
                r.localP99, r.suiteP50, r.suiteP99))
        print(
            String(
                format: "                 the difference is %.1f raw round trips of %.0f µs", r.extraRoundTrips,
                r.roundTripMicros))
        print(
            String(
                format: "%3d sessions     local %.0f, suite %.0f tokens/s: %.0f%%", sessions, r.localTokens,
                r.suiteTokens, 100 * r.suiteShareOfLocal))
        print(
            String(
                format: "                 between tokens p50, p99: local %.1f, %.1f ms, suite %.1f, %.1f ms",
                r.localManyP50 / 1000, r.localManyP99 / 1000, r.suiteManyP50 / 1000, r.suiteManyP99 / 1000))
        print(String(format: "                 store on over off %.0f%%", 100 * r.storeOnOverOff))
        print(
            String(
                format: "                 two core workers over one (%.0f tokens/s), depth %d: %.2f×", r.oneCoreTokens,
                shape.maxDepth, r.twoCoresOverOne))
        print(
            String(
                format: "  8 sessions     between tokens p50 %.1f, p99 %.1f ms; beside prompts of 1,024 %.1f, %.1f ms",
                r.gapAloneP50, r.gapAloneP99, r.gapBesideP50, r.gapBesideP99))
        print(String(format: "                 with %.0f prompt tokens/s", r.promptTokens))
        guard !r.load.isEmpty else { return }
        print("open loop        requests/s   first token p50    p99   request p50    p99  p99.9 ms")
        for load in r.load {
            print(
                String(
                    format: "%3.0f%% of that %14.1f%18.1f%7.1f%14.1f%7.1f%7.1f", 100 * load.share,
                    load.requestsPerSecond,
                    load.firstTokenP50, load.firstTokenP99, load.wholeP50, load.wholeP99, load.wholeP999))
        }
    }
}
