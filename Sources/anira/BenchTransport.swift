import ArgumentParser
import Foundation
import Histogram
import Messaging

struct BenchTransport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transport", abstract: "Raw ZeroMQ round trips between two processes: what a hop costs at least.")
    @Option(help: "Comma-separated sizes in bytes.") var sizes = "64,2048,131072"
    @Option(help: "Round trips of each size.") var count = 2000
    @Flag(help: "Over tcp instead of a socket file.") var tcp = false
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var bytes: Int
        /// Microseconds.
        var p50, p90, p99: Double
    }

    func run() throws {
        let sizes = try integers(sizes, "--sizes").map(Int.init)
        guard sizes.allSatisfy({ (1...1 << 24).contains($0) }), count > 0 else {
            throw ValidationError("--sizes must be 1…16777216, --count above 0")
        }
        let echo = try EchoProcess(tcp: tcp)
        defer { echo.stop() }
        let rows = try sizes.map { bytes in
            progress("\(bytes) bytes")
            return try echo.measure(bytes: bytes, count: count)
        }
        progress(nil)
        if json { return try printJSON(rows) }
        print("\(machineName()), \(tcp ? "tcp" : "ipc"), microseconds a round trip")
        print("   bytes       p50       p90       p99")
        for row in rows { print(String(format: "%8d%10.0f%10.0f%10.0f", row.bytes, row.p50, row.p90, row.p99)) }
    }
}

/// Sends back what it gets: the other process of `bench transport`.
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
            while let frames = socket.receive() { _ = socket.send(frames) }
        }
    }
}

/// A child that echoes, and the socket to it.
final class EchoProcess {
    private final class Connection {
        let socket: Socket
        let endpoint: String

        init(_ context: Context, _ endpoint: String) throws {
            var socket = try Socket(.dealer, context, waitsForPeer: false)
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
        let file = "\(NSTemporaryDirectory())anira-echo-\(getpid()).ipc"
        connection = try Connection(context, tcp ? "tcp://127.0.0.1:*" : "ipc://\(file)")
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["bench", "echo", "--connect", connection.endpoint, "--parent", "\(getpid())"]
        try process.run()
        _ = try roundTrip(Frame([UInt8](repeating: 0, count: 8)))
    }

    func measure(bytes: Int, count: Int) throws -> BenchTransport.Row {
        let frame = Frame([UInt8](repeating: 7, count: bytes))
        var histogram = Histogram<UInt64>(highestTrackableValue: 10_000_000_000)
        for _ in 0..<20 { _ = try roundTrip(frame) }
        for _ in 0..<count { histogram.record(try roundTrip(frame)) }
        func micros(_ percentile: Double) -> Double { Double(histogram.valueAtPercentile(percentile)) / 1000 }
        return .init(bytes: bytes, p50: micros(50), p90: micros(90), p99: micros(99))
    }

    /// Nanoseconds.
    private func roundTrip(_ frame: Frame) throws -> UInt64 {
        let start = monotonicNanoseconds()
        // Nothing can be queued before the other side has connected.
        while connection.socket.send([frame]) != .sent, monotonicNanoseconds() - start < 10_000_000_000 { usleep(1000) }
        while monotonicNanoseconds() - start < 10_000_000_000 {
            _ = poll(connection.socket, wakeup, timeoutMS: 1000)
            if connection.socket.receive() != nil { return monotonicNanoseconds() - start }
        }
        throw RequestFailure(code: "UNAVAILABLE", message: "the echo process does not answer")
    }

    func stop() {
        process.terminate()
        process.waitUntilExit()
        removeSocketFile(of: connection.endpoint)
    }
}
