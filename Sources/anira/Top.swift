import ArgumentParser
import Client
import Foundation
import Messaging
import Proto

struct Top: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "A live table of the running suite: what each worker does, how full its matrices are, how deep tokens go.",
        discussion: """
            Rates are those of the last interval. "wait" counts items handed to the worker and not answered, "rows" is the \
            mean number of rows in one of its products, "busy" its share of the time spent computing. Each bar of "depth" \
            is the share of tokens that left the core at depth 1…K. Interrupt to leave.
            """)
    @Option(help: "The suite's client endpoint.") var endpoint = "tcp://127.0.0.1:5555"
    @Option(help: "Seconds between looks.") var interval = 1.0
    @Option(help: "Looks; 0: until interrupted.") var count = 0
    @Option(help: "Give up after so many seconds without a reply.") var timeout = 5.0

    func validate() throws {
        guard interval >= 0.1, interval <= 3600 else { throw ValidationError("--interval must be 0.1…3600") }
        guard count >= 0 else { throw ValidationError("--count must be 0 or more") }
        try checkEndpoint(endpoint, "--endpoint")
        try checkTimeout(timeout)
    }

    func run() throws {
        let client = try Client(endpoint: endpoint, context: Context())
        var last = try look(client)
        var looks = 0
        repeat {
            Thread.sleep(forTimeInterval: interval)
            let now = try look(client)
            if isatty(STDOUT_FILENO) != 0 { show("\u{1B}[2J\u{1B}[H") }
            say(TopTable(before: last, after: now, columns: terminalColumns(STDOUT_FILENO)).text)
            last = now
            looks += 1
        } while count == 0 || looks < count
    }

    private func look(_ client: Client) throws -> TopTable.Look {
        var request = ClientRequest()
        request.id = newRequestID("top")
        request.status = .init()
        let reply = try client.run(request, seconds: timeout).reply
        guard case .status(let status) = reply.reply else {
            throw RequestFailure(code: reply.error.code, message: reply.error.message)
        }
        return (monotonicNanoseconds(), status)
    }
}

/// Two looks at the suite as a table of what happened between them.
struct TopTable {
    typealias Look = (time: UInt64, status: Anira_V1_SuiteStatus)
    let before: Look
    let after: Look
    /// Of the terminal: what it has no room for is left out.
    let columns: Int
    private var nameWidth: Int { after.status.nameWidth }
    private var showsBars: Bool { columns >= 100 + nameWidth }
    private var showsCache: Bool { columns >= 82 + nameWidth }

    private var seconds: Float { Float(after.time - before.time) / 1e9 }

    var text: String {
        let s = after.status
        let done = (s.counters.completed - before.status.counters.completed) / seconds
        let suite = [
            "\(s.model.name), K = \(s.model.maxDepth), \(s.model.decider) decider",
            "\(s.running) running, \(s.waiting) waiting, \(String(format: "%.1f", done)) requests/s",
            counted(Int(s.sessions), "session"),
        ]
        var lines = [
            joined(suite, "    ", columns: columns),
            "worker".padding(toLength: nameWidth, withPad: " ", startingAt: 0)
                + "  state      wait  tokens/s  steps/s   rows   busy" + (showsBars ? "                  " : "")
                + (showsCache ? "  cache MiB" : "") + "  depth 1…K",
        ]
        for stage in s.stages {
            if stage.workers.isEmpty { lines.append("\(stage.name): no worker") }
            for worker in stage.workers { lines.append(line(worker, of: stage)) }
            if stage.queued > 0 { lines.append("\(counted(Int(stage.queued), "item")) queued for the \(stage.name)") }
        }
        return lines.joined(separator: "\n")
    }

    private func line(_ worker: Anira_V1_Worker, of stage: Anira_V1_Stage) -> String {
        let old = before.status.stages.flatMap(\.workers).first { $0.name == worker.name && $0.pid == worker.pid }
        let steps = worker.steps - (old?.steps ?? 0)
        let rows = worker.rowsPerStep * worker.steps - (old.map { $0.rowsPerStep * $0.steps } ?? 0)
        var fields = [
            stage.label(of: worker).padding(toLength: nameWidth, withPad: " ", startingAt: 0),
            worker.state.padding(toLength: 8, withPad: " ", startingAt: 0),
            String(format: "%5d", worker.inFlight),
            String(format: "%8.1f", (worker.tokens - (old?.tokens ?? 0)) / seconds),
            String(format: "%7.1f", steps / seconds),
            String(format: "%5.1f", steps > 0 ? rows / steps : 0),
            String(format: "%4.0f%%", worker.busy * 100),
        ]
        if showsBars { fields.append(bar(worker.busy)) }
        if showsCache { fields.append(String(format: "%9.1f", worker.kv.residentMib)) }
        return (fields + [depths(worker, old)]).joined(separator: "  ")
    }

    private func bar(_ share: Float) -> String {
        let full = Int((min(1, max(0, share)) * 16).rounded())
        return String(repeating: "█", count: full) + String(repeating: "·", count: 16 - full)
    }

    /// Shares of the interval's tokens; of all since start when there were none.
    private func depths(_ worker: Anira_V1_Worker, _ old: Anira_V1_Worker?) -> String {
        let all: [Int] = worker.depthHistogram.map { Int($0) }
        guard !all.isEmpty else { return "" }
        let earlier: [Int] = old?.depthHistogram.map { Int($0) } ?? []
        var counts = all
        for index in earlier.indices where index < counts.count { counts[index] -= earlier[index] }
        if counts.allSatisfy({ $0 == 0 }) { counts = all }
        let total = counts.reduce(0, +)
        guard total > 0, let most = counts.max() else { return String(repeating: "▁", count: counts.count) }
        let bars = Array("▁▂▃▄▅▆▇█")
        var (text, iterations) = ("", 0)
        for (index, count) in counts.enumerated() {
            iterations += (index + 1) * count
            text.append(count == 0 ? " " : bars[max(0, count * 8 / most - 1)])
        }
        return text + String(format: "  mean %.2f", Float(iterations) / Float(total))
    }
}
