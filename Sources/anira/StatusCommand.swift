import ArgumentParser
import Foundation
import Proto
import Router

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "What the running suite is doing: workers, queues, depths, caches.")
    @Option(help: "The suite's client endpoint.") var endpoint = "tcp://127.0.0.1:5555"
    @Option(help: "Give up after so many seconds without a reply.") var timeout = 5.0
    @Flag(help: "Print the reply as a line of JSON.") var json = false
    @Flag(help: "Refresh every second until interrupted.") var watch = false

    func validate() throws {
        try checkEndpoint(endpoint, "--endpoint")
        try checkTimeout(timeout)
    }

    func run() throws {
        var target = try TargetOptions.parse(["--endpoint", endpoint])
        target.timeout = timeout
        repeat {
            var request = ClientRequest()
            request.id = newRequestID("status")
            request.status = .init()
            let last = try target.run(request)
            if watch, isatty(STDOUT_FILENO) != 0 { print("\u{1B}[2J\u{1B}[H", terminator: "") }
            if json {
                printJSON(last.reply)
            } else if case .status(let status) = last.reply.reply {
                show(status)
            }
            try endOutput()
            if watch { sleep(1) }
        } while watch
    }

    private func show(_ s: Anira_V1_SuiteStatus) {
        let (columns, c) = (terminalColumns(STDOUT_FILENO), s.counters)
        let model = ["\(s.model.decider) decider", "K = \(s.model.maxDepth)", "fingerprint \(s.model.fingerprint)"]
        let head = ["anira \(s.version)", "model \(s.model.name)"] + model
        print(joined(head, ", ", columns: columns))
        let requests = [
            "\(s.running) running", "\(s.waiting) waiting", "\(number(c.completed)) completed",
            "\(number(c.failed)) failed",
        ]
        let sessions = counted(Int(s.sessions), "named session")
        print(joined(["requests: " + requests.joined(separator: ", "), sessions], "; ", columns: columns))
        let width = s.nameWidth
        let showsCache = columns >= 100 + width
        print(
            "worker".padding(toLength: width, withPad: " ", startingAt: 0)
                + "  state     pid     leased  busy  rows/step"
                + (showsCache ? "  cache MiB  sessions" : "") + "  depths 1…K")
        for stage in s.stages {
            if stage.workers.isEmpty { print("\(stage.name): no worker") }
            for w in stage.workers {
                let cache = [String(format: "%9.1f", w.kv.residentMib), String(format: "%8d", w.kv.residentSessions)]
                let fields = [
                    stage.label(of: w).padding(toLength: width, withPad: " ", startingAt: 0),
                    w.state.padding(toLength: 8, withPad: " ", startingAt: 0),
                    String(format: "%-6d", w.pid), String(format: "%6d", w.inFlight),
                    String(format: "%3.0f%%", w.busy * 100), String(format: "%9.1f", w.rowsPerStep),
                ]
                let depths = w.depthHistogram.map(String.init).joined(separator: " ")
                print((fields + (showsCache ? cache : []) + [depths]).joined(separator: "  "))
            }
            if stage.queued > 0 { print("\(counted(Int(stage.queued), "item")) queued for the \(stage.name)") }
        }
        let events: [(String, Float)] = [
            ("rejected", c.rejected), ("duplicates", c.duplicates), ("redeliveries", c.redeliveries),
            ("replays", c.replays), ("late results", c.lateResults), ("workers lost", c.workersLost),
            ("workers refused", c.workersRefused), ("unroutable", c.unroutable), ("malformed", c.malformed),
            ("slow clients", c.slowClients),
        ]
        var counts = events.map { "\(number($0.1)) \($0.0)" }
        counts[0] = "events: " + counts[0]
        print(joined(counts, ", ", columns: columns))
    }

    private func number(_ value: Float) -> String { String(Int(value)) }
}

extension Anira_V1_Stage {
    /// The worker's name, after its stage's where it does not say so itself: core-0, core/big.
    func label(of worker: Anira_V1_Worker) -> String {
        worker.name.hasPrefix(name) ? worker.name : "\(name)/\(worker.name)"
    }
}

extension Anira_V1_SuiteStatus {
    /// Columns for the longest label of a worker, ten at least.
    var nameWidth: Int {
        stages.flatMap { stage in stage.workers.map { stage.label(of: $0).count } }.reduce(10, max)
    }
}
