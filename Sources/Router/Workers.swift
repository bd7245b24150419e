import DequeModule
import Messaging
import Proto

/// A registered worker and what it owes, an object of RouterState's alone.
final class Worker {
    /// When the newest items that were answered had been leased.
    struct Newest: Sendable {
        private(set) var row: UInt64 = 0
        private(set) var chunk: UInt64 = 0

        mutating func note(_ item: Item) {
            if item.count == 1 { row = max(row, item.enqueued) } else { chunk = max(chunk, item.enqueued) }
        }
    }

    enum State: String, Sendable { case ready, draining, lost }

    let name: String
    let stage: StageKind
    let address: WorkerAddress
    let incarnation: UInt64
    let pid: Int32
    let creditBytes: Int
    let durability: String
    /// Where other workers reach it; empty: by way of the Router only.
    let inbox: String
    var state: State = .ready
    var drainingSince: UInt64 = 0
    var lastHeard: UInt64
    /// When its compute loop last moved, and how far it was.
    var lastProgress: UInt64
    var progress: UInt64 = 0
    var newestAnswered = Newest()
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

    init(_ ready: Anira_Worker_V1_Ready, stage: StageKind, address: WorkerAddress, now: UInt64) {
        (name, self.stage, self.address) = (ready.name, stage, address)
        (incarnation, pid, creditBytes) = (ready.incarnation, ready.pid, Int(ready.creditBytes))
        (durability, inbox) = (ready.durability, ready.inbox)
        (lastHeard, lastProgress) = (now, now)
    }

    /// So many nanoseconds until now in which it could not be heard.
    func excuse(_ nanoseconds: UInt64, now: UInt64) {
        lastHeard = min(now, lastHeard + nanoseconds)
        lastProgress = min(now, lastProgress + nanoseconds)
    }

    func lease(_ item: Item) {
        leases[item.key] = item
        leasedBytes += item.bytes
    }

    /// The leased item that this result answers, if it is still owed at this attempt.
    func settle(_ key: ItemKey, attempt: UInt32) -> Item? {
        guard let item = leases[key], item.attempt == attempt else { return nil }
        leases[key] = nil
        leasedBytes -= item.bytes
        newestAnswered.note(item)
        return item
    }

    /// Whether it has answered an item of the same kind that was leased so much later: rows of sessions that decode overtake
    /// the chunks of prompts.
    func hasPassed(_ item: Item, by nanoseconds: UInt64) -> Bool {
        guard item.enqueued + nanoseconds < max(newestAnswered.row, newestAnswered.chunk) else { return false }
        let isChunk = item.count > 1 || leases.values.contains { $0.request == item.request && $0.count > 1 }
        return item.enqueued + nanoseconds < (isChunk ? newestAnswered.chunk : newestAnswered.row)
    }

    /// Takes a lease back; false when it is not owed.
    func forgetLease(_ key: ItemKey) -> Bool {
        guard let item = leases.removeValue(forKey: key) else { return false }
        leasedBytes -= item.bytes
        return true
    }

    /// Forgets a request; true when the worker itself has to be told.
    func forget(request: UInt64) -> Bool {
        queue.removeAll { $0.request == request }
        let owed = leases.values.filter { $0.request == request }
        for item in owed {
            leases[item.key] = nil
            leasedBytes -= item.bytes
        }
        return !owed.isEmpty
    }

    /// Everything queued or leased, in position order, for another delivery.
    func takeAll() -> [Item] {
        let items = (Array(leases.values) + Array(queue)).sorted {
            ($0.request, $0.position) < ($1.request, $1.position)
        }
        leases.removeAll()
        queue.removeAll()
        leasedBytes = 0
        return items
    }
}
