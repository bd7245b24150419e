import Foundation
import Messaging
import Proto
import Synchronization

/// What the link thread hands the compute thread, in order of arrival.
enum Order: Sendable {
    case work([Work])
    case cancel(request: UInt64)
    case release(session: UInt64, drop: Bool)
}

/// The two queues between the link thread (owns the socket) and the compute thread (owns stage and store).
final class WorkerMailbox: @unchecked Sendable {  // every access to the state holds the condition's lock
    private let condition = NSCondition()
    private var orders: [Order] = []
    private var outcomes: [Outcome] = []
    private var stopping = false
    private var report = Report()
    /// Wakes the link thread when outcomes are waiting.
    let wakeup = Wakeup()

    /// The compute thread's state as heartbeats carry it.
    struct Report: Sendable {
        var heartbeat = Anira_Worker_V1_Heartbeat()
        /// Nanoseconds spent in steps since start.
        var busyNS: UInt64 = 0
        /// Orders not finished.
        var pending = 0
    }

    // Link side.

    func submit(_ order: Order) {
        condition.withLock {
            orders.append(order)
            condition.signal()
        }
    }

    func takeOutcomes() -> [Outcome] {
        condition.withLock {
            defer { outcomes = [] }
            return outcomes
        }
    }

    var state: Report { condition.withLock { report } }

    /// The compute thread finishes what it holds and ends.
    func stop() {
        condition.withLock {
            stopping = true
            condition.signal()
        }
    }

    // Compute side.

    /// Waiting orders; blocks until there is one when `idle`, for at most a second so that housekeeping runs.
    func takeOrders(idle: Bool) -> (orders: [Order], stopping: Bool) {
        condition.withLock {
            if idle, orders.isEmpty, !stopping { _ = condition.wait(until: Date(timeIntervalSinceNow: 1)) }
            defer { orders = [] }
            return (orders, stopping)
        }
    }

    func update(_ body: (inout Report) -> Void) { condition.withLock { body(&report) } }

    // Any thread.

    func post(_ outcome: Outcome) {
        let first = condition.withLock {
            outcomes.append(outcome)
            return outcomes.count == 1
        }
        if first { wakeup.signal() }
    }
}
