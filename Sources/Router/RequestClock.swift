import Messaging
import Proto

/// When things happened to an item: monotonic nanoseconds of the machine that all processes share.
struct ItemTimes: Sendable {
    let sent, taken, admitted, decided, done, committed, settled: UInt64

    /// Times as the worker reported them, brought into order: they may come from another machine's clock.
    init(_ item: Anira_Worker_V1_ResultItem, settled now: UInt64) {
        func later(_ start: UInt64, _ micros: Float) -> UInt64 {
            guard micros > 0, micros < 1e12 else { return start }
            return min(now, start + UInt64(micros * 1000))
        }
        sent = min(item.sentNs, now)
        taken = min(max(sent, item.takenNs), now)
        admitted = later(taken, item.queueUs)
        done = later(admitted, item.computeUs)
        let deciding = later(0, item.decideUs)
        decided = done - min(deciding, done - admitted)
        committed = later(done, item.storeUs)
        settled = now
    }
}

/// Where a request's time went: every instant counts once, for what its earliest unsettled item was in, so that the
/// parts and `router` add up to the whole.
struct RequestClock: Sendable {
    struct Stage: Sendable {
        var transport: UInt64 = 0
        var queue: UInt64 = 0
        var compute: UInt64 = 0
        var decide: UInt64 = 0
        var store: UInt64 = 0
        var total: UInt64 { transport + queue + compute + decide + store }
    }

    private(set) var stages = [Stage](repeating: Stage(), count: StageKind.allCases.count)
    /// All before is accounted for.
    private var until: UInt64

    init(start: UInt64) { until = start }

    /// Adds an item whose result has come. Rows that were handed over went on before they were committed.
    mutating func add(_ stage: StageKind, _ times: ItemTimes, handedOver: Bool) {
        let index = stage.index
        skip(to: times.sent)
        stages[index].transport += advance(to: times.taken)
        stages[index].queue += advance(to: times.admitted)
        stages[index].compute += advance(to: times.decided)
        stages[index].decide += advance(to: times.done)
        guard !handedOver else { return }
        stages[index].store += advance(to: times.committed)
        stages[index].transport += advance(to: times.settled)
    }

    /// Nanoseconds of `total` that no stage accounts for.
    func router(of total: UInt64) -> UInt64 {
        let spent = stages.reduce(0) { $0 + $1.total }
        return total > spent ? total - spent : 0
    }

    private mutating func skip(to time: UInt64) { until = max(until, time) }

    private mutating func advance(to time: UInt64) -> UInt64 {
        guard time > until else { return 0 }
        defer { until = time }
        return time - until
    }
}
