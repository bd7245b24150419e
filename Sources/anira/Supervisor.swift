import Foundation
import KVStore
import Logging

/// Keeps child processes running: starts them, starts them again with back-off when they die, stops them in order.
final class Supervisor: @unchecked Sendable {  // all state behind `condition`
    struct Child: Sendable {
        let name: String
        let arguments: [String]
    }

    private struct Running {
        let child: Child
        var process: Process?
        /// The child's standard input, which ends when this process does.
        var lifeline: Pipe?
        var started = Date.distantPast
        var restarts = 0
        var startAgain: Date?
    }

    private let condition = NSCondition()
    private var stops = 0
    private var stopping: Bool { stops > 0 }
    private var failed = false
    private var running: [Running] = []
    private let log: Logger

    init(log: Logger) { self.log = log }

    /// Ends `run`; called again, without waiting for what the children would still finish. Callable from any thread.
    func stop() {
        condition.withLock {
            stops += 1
            condition.broadcast()
        }
    }

    /// Runs until `stop`; false when a child could not start at all (it has said why).
    func run(_ children: [Child]) -> Bool {
        condition.lock()
        running = children.map { Running(child: $0) }
        for index in running.indices { start(index) }
        while !stopping, !failed {
            let next = running.compactMap(\.startAgain).min()
            if let next { _ = condition.wait(until: next) } else { condition.wait() }
            for index in running.indices where running[index].startAgain.map({ $0 <= Date() }) ?? false { start(index) }
        }
        condition.unlock()
        stopAll()
        return !failed
    }

    /// Called with the lock held.
    private func start(_ index: Int) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = running[index].child.arguments
        let lifeline = Pipe()
        process.standardInput = lifeline
        process.terminationHandler = { [weak self] process in self?.ended(index, process) }
        running[index].startAgain = nil
        running[index].started = Date()
        running[index].process = process
        running[index].lifeline = lifeline
        do {
            try process.run()
        } catch {
            let number = KVStoreError.errorNumber(of: error)
            let reason = number == 0 ? "\(error)" : String(cString: strerror(number))
            log.error("cannot start \(running[index].child.name): \(reason)")
            running[index].process = nil
            failed = true
        }
    }

    private func ended(_ index: Int, _ process: Process) {
        condition.withLock {
            defer { condition.broadcast() }
            guard running[index].process === process else { return }
            running[index].process = nil
            guard !stopping else { return }
            let name = running[index].child.name
            let first = running[index].restarts == 0 && Date().timeIntervalSince(running[index].started) < 10
            let helps = process.terminationStatus == Environment.setAsideStatus
            if first, process.terminationReason == .exit, process.terminationStatus != 0, !helps {
                failed = true  // It said why on stderr; starting it again would say it again.
                return
            }
            if Date().timeIntervalSince(running[index].started) > 10 { running[index].restarts = 0 }
            let delay = running[index].restarts == 0 ? 0 : min(5, 0.1 * pow(2, Double(running[index].restarts)))
            running[index].restarts += 1
            running[index].startAgain = Date(timeIntervalSinceNow: delay)
            let cause = process.terminationReason == .exit ? "status" : "signal"
            log.warning("\(name) ended with \(cause) \(process.terminationStatus); starting it again")
        }
    }

    /// The Router first, so that running requests finish; then the workers; what does not end is killed.
    private func stopAll() {
        condition.lock()
        stops = max(1, stops)
        for group in [0..<min(1, running.count), min(1, running.count)..<running.count] {
            let (soon, deadline) = (Date(timeIntervalSinceNow: 1), Date(timeIntervalSinceNow: 15))
            var (told, explained) = (0, false)
            while group.contains(where: { running[$0].process != nil }) {
                if told < min(2, stops) {
                    for index in group { running[index].process?.terminate() }
                    told += 1
                } else if !condition.wait(until: explained ? deadline : soon) {
                    if explained { break }
                    explained = true
                    if told == 1 { log.warning("waiting for what runs to finish; a second signal ends it") }
                }
            }
            for index in group {
                guard let process = running[index].process else { continue }
                log.error("\(running[index].child.name) did not stop in time and is killed")
                kill(process.processIdentifier, SIGKILL)
            }
        }
        condition.unlock()
    }
}
