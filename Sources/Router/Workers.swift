import DequeModule
import Messaging
import Proto

/// A registered worker and what it owes.
struct Worker: Sendable {
    enum State: String, Sendable { case ready, draining, lost }

    let name: String
    let stage: StageKind
    var address: WorkerAddress
    var incarnation: UInt64
    var state: State = .ready
    var pid: Int32
    var creditBytes: Int
    var durability: String
    /// Where other workers reach it; empty: by way of the Router only.
    var inbox: String
    var lastHeard: UInt64
    /// When its compute loop last moved, and how far it was.
    var lastProgress: UInt64
    var progress: UInt64 = 0
    /// When the newest item that it has answered was leased.
    var newestAnswered: UInt64 = 0
    /// When it last said that it holds nothing.
    var lastIdle: UInt64 = 0
    var figures = Anira_Worker_V1_Heartbeat()
    /// Waiting for credit, first come first served.
    var queue: Deque<Item> = []
    /// Handed over and not answered.
    var leases: [ItemKey: Item] = [:]
    var leasedBytes = 0
    /// Running requests whose sessions it holds.
    var requests: Set<UInt64> = []

    mutating func lease(_ item: Item) {
        leases[item.key] = item
        leasedBytes += item.bytes
    }

    /// The leased item that this result answers, if it is still owed at this attempt.
    mutating func settle(_ key: ItemKey, attempt: UInt32) -> Item? {
        guard let item = leases[key], item.attempt == attempt else { return nil }
        leases[key] = nil
        leasedBytes -= item.bytes
        newestAnswered = max(newestAnswered, item.enqueued)
        return item
    }

    /// Takes a lease back; false when it is not owed.
    mutating func forgetLease(_ key: ItemKey) -> Bool {
        guard let item = leases.removeValue(forKey: key) else { return false }
        leasedBytes -= item.bytes
        return true
    }

    /// Forgets a request; true when the worker itself has to be told.
    mutating func forget(request: UInt64) -> Bool {
        queue.removeAll { $0.request == request }
        let owed = leases.values.filter { $0.request == request }
        for item in owed {
            leases[item.key] = nil
            leasedBytes -= item.bytes
        }
        return !owed.isEmpty
    }

    /// Everything queued or leased, in position order, for another delivery.
    mutating func takeAll() -> [Item] {
        let items = (Array(leases.values) + Array(queue)).sorted {
            ($0.request, $0.position) < ($1.request, $1.position)
        }
        leases.removeAll()
        queue.removeAll()
        leasedBytes = 0
        return items
    }
}
