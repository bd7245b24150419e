import Messaging
import Synchronization

/// Outcomes on their way to the Router: posted by the compute thread, or by the store's writer thread once their
/// rows are committed; taken by the compute thread, which owns the socket.
final class Outbox: Sendable {
    private let outcomes = Mutex<[Outcome]>([])
    /// Wakes the compute thread when outcomes are waiting.
    let wakeup = Wakeup()

    func post(_ outcome: Outcome) {
        let first = outcomes.withLock { outcomes in
            outcomes.append(outcome)
            return outcomes.count == 1
        }
        if first { wakeup.signal() }
    }

    func take() -> [Outcome] {
        outcomes.withLock { outcomes in
            defer { outcomes = [] }
            return outcomes
        }
    }
}
