import ArgumentParser
import Foundation
import Histogram
import Messaging
import Proto

struct BenchTransport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transport",
        abstract: "Hand-overs between two processes against raw ZeroMQ round trips of as many bytes, interleaved.",
        discussion: """
            A hand-over is the message by which workers give rows to each other, with one state of H floats a row: it is \
            encoded, sent, decoded and encoded again by the other process, sent back and decoded. A raw round trip \
            sends one frame of the same size.
            """)
    @Option(help: "Comma-separated numbers of rows in a message.") var rows = "1,8,32"
    @Option(help: "Hidden size H.") var hidden = 512
    @Option(help: "Round trips of each kind and number of rows.") var count = 2000
    @Flag(help: "Over tcp instead of a socket file.") var tcp = false
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var rows: Int
        var bytes: Int
        /// Microseconds of a round trip.
        var rawP50, rawP90, rawP99: Double
        var handOverP50, handOverP90, handOverP99: Double
        /// Medians of the two.
        var overRaw: Double
    }

    func run() throws {
        let counts = try integers(rows, "--rows").map(Int.init)
        guard counts.allSatisfy({ (1...1024).contains($0) }), (1...8192).contains(hidden), count > 0 else {
            throw ValidationError("--rows must be 1…1024, --hidden 1…8192, --count above 0")
        }
        let echo = try EchoProcess(tcp: tcp)
        defer { echo.stop() }
        let found = try counts.map { rows in
            progress("\(rows) rows")
            return try measure(rows, echo)
        }
        progress(nil)
        if json { return try printJSON(BenchReport(found)) }
        print(heading("\(tcp ? "tcp" : "ipc"), microseconds a round trip"))
        print("rows    bytes   raw p50    p90    p99   hand-over p50    p90    p99   over raw")
        for row in found {
            print(
                String(
                    format: "%4d%9d%10.0f%7.0f%7.0f%16.0f%7.0f%7.0f%10.2f×",
                    row.rows, row.bytes, row.rawP50, row.rawP90, row.rawP99, row.handOverP50, row.handOverP90,
                    row.handOverP99, row.overRaw))
        }
    }

    private func measure(_ rows: Int, _ echo: EchoProcess) throws -> Row {
        let tensor = Tensor(Frame([UInt8](repeating: 7, count: 4 * hidden)))
        let work = try (0..<rows).map { Work(try item($0), tensor: tensor) }
        let bytes = try workFrames(work).reduce(0) { $0 + $1.count }
        let single = Frame([UInt8](repeating: 7, count: bytes))
        func handOver() throws { _ = try readHandOver(try echo.roundTrip(try workFrames(work))) }
        var raw = Histogram<UInt64>(highestTrackableValue: 60_000_000_000)
        var whole = raw
        for _ in 0..<20 {
            _ = try echo.roundTrip([single])
            try handOver()
        }
        for _ in 0..<count {
            try raw.time { _ = try echo.roundTrip([single]) }
            try whole.time(handOver)
        }
        return Row(
            rows: rows, bytes: bytes, rawP50: raw.micros(50), rawP90: raw.micros(90), rawP99: raw.micros(99),
            handOverP50: whole.micros(50), handOverP90: whole.micros(90), handOverP99: whole.micros(99),
            overRaw: whole.micros(50) / raw.micros(50))
    }

    /// A row on its way from decider to core, as the Router's requests make it.
    private func item(_ index: Int) throws -> Anira_Worker_V1_WorkItem {
        func peer(_ name: String) -> Anira_Worker_V1_Peer {
            .with {
                $0.inbox = "ipc:///var/lib/anira/workers.ipc.\(name)"
                $0.worker = "\(name)#1234567890123"
            }
        }
        let onward = Anira_Worker_V1_Onward.with {
            ($0.core, $0.coda) = (peer("core-0"), peer("coda-0"))
            $0.codaWork.sample = true
            $0.continuation.decider = peer("decider-0")
            $0.continuation.depth.value = 3
        }
        let way = try onward.serializedData()
        return .with {
            ($0.request, $0.attempt, $0.session) = (UInt64(index), 1, UInt64(1000 + index))
            ($0.position, $0.count, $0.persist) = (64, 1, true)
            $0.requestID = "request-\(index)"
            $0.enqueuedNs = monotonicNanoseconds()
            $0.onward = way
            $0.addressee = "core-0#1234567890123"
            $0.continuing = 15
            $0.core.depth.value = 3
        }
    }
}

/// The rows of a hand-over.
private func readHandOver(_ frames: [Frame]) throws -> [Work] {
    guard frames.count >= 3 else { throw RequestFailure(code: "INTERNAL", message: "frames are missing") }
    let batch = try Anira_Worker_V1_WorkBatch(serializedBytes: frames[2].bytes)
    return try readWork(batch, frames.dropFirst(3), taken: monotonicNanoseconds())
}

/// Sends back what it gets, hand-overs read and written anew: the other process of `bench transport`.
struct BenchEcho: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "echo", shouldDisplay: false)
    @Option var connect: String
    @Option var parent: Int32

    func run() throws {
        let context = Context()
        let socket = try Socket(.dealer, context)
        try socket.connect(connect)
        let wakeup = Wakeup()
        while getppid() == parent {
            _ = poll(socket, wakeup, timeoutMS: 200)
            while let frames = socket.receive() {
                _ = socket.send(frames.count == 1 ? frames : try workFrames(try readHandOver(frames)))
            }
        }
    }
}

/// A child that echoes, and the socket to it.
final class EchoProcess {
    private final class Connection {
        let socket: Socket
        let endpoint: String

        init(_ context: Context, _ endpoint: String) throws {
            var socket = try Socket(.dealer, context)
            try socket.bind(endpoint)
            self.endpoint = socket.endpoint
            self.socket = socket
        }
    }

    private let context = Context()
    private let connection: Connection
    private let process = Process()
    private let wakeup = Wakeup()

    init(tcp: Bool) throws {
        // An ipc endpoint without a file.
        connection = try Connection(context, tcp ? "tcp://127.0.0.1:*" : "ipc://@anira-echo-\(getpid())")
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["bench", "echo", "--connect", connection.endpoint, "--parent", "\(getpid())"]
        try process.run()
        _ = try roundTrip([Frame([UInt8](repeating: 0, count: 8))])
    }

    /// Microseconds of a raw round trip: the median of `count`.
    func rawMicros(bytes: Int, count: Int) throws -> Double {
        let frame = Frame([UInt8](repeating: 7, count: bytes))
        for _ in 0..<20 { _ = try roundTrip([frame]) }
        var raw = Histogram<UInt64>(highestTrackableValue: 60_000_000_000)
        for _ in 0..<count { try raw.time { _ = try roundTrip([frame]) } }
        return raw.micros(50)
    }

    /// What came back.
    func roundTrip(_ frames: [Frame]) throws -> [Frame] {
        let start = monotonicNanoseconds()
        // Nothing can be queued before the other side has connected.
        while connection.socket.send(frames) != .sent, monotonicNanoseconds() - start < 10_000_000_000 { usleep(1000) }
        while monotonicNanoseconds() - start < 10_000_000_000 {
            _ = poll(connection.socket, wakeup, timeoutMS: 1000)
            if let answer = connection.socket.receive() { return answer }
        }
        throw RequestFailure(code: "UNAVAILABLE", message: "the echo process does not answer")
    }

    func stop() {
        process.terminate()
        process.waitUntilExit()
    }
}
