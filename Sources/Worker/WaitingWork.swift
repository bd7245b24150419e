import DequeModule
import HeapModule
import Messaging
import Proto

/// Items that wait for a stage, in the order in which it takes them (docs/architecture.md, "Scheduling").
///
/// A step lasts as long as its rows, and everyone who decodes waits for it. So single rows, those of sessions that
/// decode, go before the chunks of prompts, and among them those with the fewest iterations ahead. Both are only a
/// head start, counted in arrivals: whoever has waited longer than that goes first, so that nobody waits for ever.
/// Items of one session keep their order.
public struct WaitingWork {
    /// Arrivals by which one iteration sets an item back, and being a prompt's chunk.
    public static let iterationLag = 8
    public static let promptLag = 256

    private struct Entry: Comparable {
        let work: Work
        let rank: Int
        let arrival: Int

        static func < (a: Entry, b: Entry) -> Bool { (a.rank, a.arrival) < (b.rank, b.arrival) }
        static func == (a: Entry, b: Entry) -> Bool { a.arrival == b.arrival }
    }

    private var decoding = Heap<Entry>()
    /// In order of arrival: nothing is set back further than they are.
    private var prompts: Deque<Entry> = []
    /// Of each waiting session: its items here, the highest rank among them, and how many are in `prompts`.
    private var sessions: [UInt64: (items: Int, rank: Int, prompts: Int)] = [:]
    private var arrivals = 0

    public init() {}

    public var count: Int { decoding.count + prompts.count }

    /// iterations: how many the item's rows take at most in this stage.
    public mutating func append(_ work: Work, iterations: Int) {
        var session = sessions[work.item.session] ?? (0, 0, 0)
        let isPrompt = work.item.count > 1 || session.prompts > 0
        let lag = isPrompt ? Self.promptLag : min(iterations * Self.iterationLag, Self.promptLag)
        let entry = Entry(work: work, rank: max(session.rank, arrivals + lag), arrival: arrivals)
        arrivals += 1
        session = (session.items + 1, entry.rank, session.prompts + (isPrompt ? 1 : 0))
        sessions[work.item.session] = session
        if isPrompt { prompts.append(entry) } else { decoding.insert(entry) }
    }

    /// The next item; prompts only while `mayTakePrompt`.
    public func next(mayTakePrompt: Bool) -> (work: Work, isPrompt: Bool)? {
        guard mayTakePrompt, let prompt = prompts.first else { return decoding.min.map { ($0.work, false) } }
        guard let row = decoding.min, row < prompt else { return (prompt.work, true) }
        return (row.work, false)
    }

    /// Takes what `next` returned.
    public mutating func remove(isPrompt: Bool) {
        guard let entry = isPrompt ? prompts.popFirst() : decoding.popMin() else { return }
        forget(entry.work.item.session, wasPrompt: isPrompt)
    }

    public mutating func cancel(request: UInt64, through attempt: UInt32) {
        func isKept(_ entry: Entry) -> Bool { entry.work.item.request != request || entry.work.item.attempt > attempt }
        for entry in decoding.unordered where !isKept(entry) { forget(entry.work.item.session, wasPrompt: false) }
        for entry in prompts where !isKept(entry) { forget(entry.work.item.session, wasPrompt: true) }
        decoding = Heap(decoding.unordered.filter(isKept))
        prompts.removeAll { !isKept($0) }
    }

    private mutating func forget(_ id: UInt64, wasPrompt: Bool) {
        guard var session = sessions[id] else { return }
        session.items -= 1
        if wasPrompt { session.prompts -= 1 }
        sessions[id] = session.items == 0 ? nil : session
    }
}
