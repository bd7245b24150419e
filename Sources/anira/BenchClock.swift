import Client
import Engine
import Foundation
import Histogram
import Messaging
import Proto
import Synchronization

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
    func gapMicros(_ percentile: Double) -> Double { gaps.micros(percentile) }
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
                    try reply.check()
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

/// The real services, started for a measurement. They end with this process.
final class SuiteUnderTest {
    private let process = Process()
    private let lifeline = Pipe()
    /// Process of the one that runs; 0: none.
    private static let running = Atomic<Int32>(0)
    private static let interrupted = Atomic(false)
    static var isInterrupted: Bool { interrupted.load(ordering: .acquiring) }
    let endpoint: String

    init(model: String, data: String, arguments: [String]) throws {
        endpoint = "tcp://127.0.0.1:\(Int.random(in: 20000..<30000))"
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments =
            ["up", "--model", model, "--data", data, "--endpoint", endpoint, "--supervised"] + arguments
        process.standardInput = lifeline
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        Self.running.store(process.processIdentifier, ordering: .releasing)
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
            try reply.check()
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
        Self.running.store(0, ordering: .releasing)
    }

    /// Ends the one that runs at once; its services follow within milliseconds.
    static func interrupt() {
        interrupted.store(true, ordering: .releasing)
        let process = running.exchange(0, ordering: .acquiringAndReleasing)
        guard process != 0 else { return }
        kill(process, SIGKILL)
        usleep(300_000)
    }
}
