import KVStore
import Kernels
import Messaging
import Proto

/// Where outcomes go: called from the compute thread or the store's writer thread, once the rows are committed.
public typealias OutcomeSink = @Sendable (Outcome) -> Void

/// Gives rows straight to another worker; false when it takes none now. Called from the compute thread.
public typealias HandOver = (_ rows: [Work], _ to: Anira_Worker_V1_Peer) -> Bool

/// What leaves a stage in one step. Where the Router named the next worker, rows go to it at once, many in one
/// message. Every result goes to the Router when its rows are committed, so that nothing is acknowledged before:
/// the hand-over only saves the way through the Router (docs/protocol.md, "Hand-over").
public struct Departures {
    private let store: KVStore
    private let post: OutcomeSink
    private let handOver: HandOver
    private var finished: [Departure] = []

    private struct Departure {
        let item: AdmittedItem
        let done: UInt64
        var outcome: Outcome
        let to: Anira_Worker_V1_Peer
        let next: Work?
    }

    public init(store: KVStore, post: @escaping OutcomeSink, handOver: @escaping HandOver) {
        self.store = store
        self.post = post
        self.handOver = handOver
    }

    /// An item is computed. decidingNS: how much of its time went into choosing depths. change: makes of a copy of the item
    /// what `peer`, where there is one, is to do with the outcome's rows, or with the token drawn from them.
    public mutating func add(
        _ item: AdmittedItem, _ outcome: Outcome, decidingNS: UInt64 = 0, to peer: Anira_Worker_V1_Peer,
        _ change: (inout Anira_Worker_V1_WorkItem) -> Void
    ) {
        var outcome = outcome
        let done = monotonicNanoseconds()
        let taken = item.work.taken == 0 ? item.admitted : item.work.taken
        outcome.item.sentNs = item.work.item.enqueuedNs
        outcome.item.takenNs = taken
        outcome.item.queueUs = Float(item.admitted - taken) / 1000
        outcome.item.computeUs = Float(done - item.admitted) / 1000
        outcome.item.decideUs = Float(decidingNS) / 1000
        guard !peer.inbox.isEmpty else {
            finished.append(Departure(item: item, done: done, outcome: outcome, to: peer, next: nil))
            return
        }
        var next = item.work.item
        change(&next)
        next.addressee = peer.worker
        next.trusted = peer.trusted
        next.enqueuedNs = done
        finished.append(
            Departure(item: item, done: done, outcome: outcome, to: peer, next: Work(next, tensor: outcome.tensor)))
    }

    /// The step is over: hands rows over, then commits.
    public mutating func leave() {
        // So few rows are committed before the next stage, which has them in hand then, could do with less.
        if finished.reduce(0, { $0 + $1.item.count }) < 8 { anira_take_processors(0) }
        var groups: [String: [Int]] = [:]
        for index in finished.indices where finished[index].next != nil {
            groups[finished[index].to.worker, default: []].append(index)
        }
        for (worker, group) in groups
        where handOver(group.compactMap { finished[$0].next }, finished[group[0]].to) {
            for index in group { finished[index].outcome.item.handedTo = worker }
        }
        for departure in finished { commit(departure) }
        finished.removeAll(keepingCapacity: true)
    }

    /// Posts the outcome after the commit of the item's positions; a failed commit becomes its failure.
    private func commit(_ departure: Departure) {
        let (computed, done) = (departure.outcome, departure.done)
        store.commit(session: departure.item.session, positions: departure.item.range) { [post] error in
            var outcome = computed
            outcome.item.storeUs = Float(monotonicNanoseconds() - done) / 1000
            if let error {
                outcome.tensor = nil
                outcome.item.failure.code = ErrorCode(of: error).rawValue
                outcome.item.failure.message = "\(error)"
            }
            post(outcome)
        }
    }
}
