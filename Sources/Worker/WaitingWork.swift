import DequeModule
import HeapModule
import Messaging
import Proto

/// Items that wait for a stage (docs/architecture.md, "Scheduling"): single rows, those of sessions that decode, apart
/// from the chunks of prompts, because a step takes some of both.
///
/// Rows with fewer iterations ahead go first, since they make room sooner. That is only a head start, counted in
/// arrivals: a row that has waited longer is next, so that none waits for ever. Chunks go in order of arrival, and items
/// of one session keep their order.
public struct WaitingWork {
    /// Arrivals by which one iteration sets a row back.
    public static let lag = 8

    private struct Entry: Comparable {
        let work: Work
        let rank: Int
        let arrival: Int

        static func < (a: Entry, b: Entry) -> Bool { (a.rank, a.arrival) < (b.rank, b.arrival) }
        static func == (a: Entry, b: Entry) -> Bool { a.arrival == b.arrival }
    }

    /// What waits of one session.
    private struct Session {
        var rows = 0
        var chunks = 0
        /// Highest rank of its rows.
        var rank = 0
    }

    private var rows = Heap<Entry>()
    private var chunks: Deque<Work> = []
    private var sessions: [UInt64: Session] = [:]
    private var known: Set<Key> = []
    private var arrivals = 0

    private struct Key: Hashable {
        let request: UInt64
        let attempt: UInt32
        let position: UInt32

        init(_ work: Work) {
            (request, attempt, position) = (work.item.request, work.item.attempt, work.item.position)
        }
    }

    public init() {}

    public var count: Int { rows.count + chunks.count }
    /// Of them, single rows.
    public var rowCount: Int { rows.count }

    /// The single row whose turn it is.
    public var row: Work? { rows.min?.work }
    /// The chunk whose turn it is; one of a single row where its session's chunks wait before it.
    public var chunk: Work? { chunks.first }

    /// iterations: how many the item's rows take at most in this stage. An item that waits already is not added again.
    public mutating func append(_ work: Work, iterations: Int) {
        guard known.insert(Key(work)).inserted else { return }
        let id = work.item.session
        var session = sessions[id] ?? Session()
        if work.item.count > 1, session.rows > 0 {
            moveRows(of: id)
            session = sessions[id]!
        }
        if work.item.count == 1, session.chunks == 0 {
            session.rows += 1
            session.rank = max(session.rank, arrivals + iterations * Self.lag)
            rows.insert(Entry(work: work, rank: session.rank, arrival: arrivals))
        } else {
            session.chunks += 1
            chunks.append(work)
        }
        arrivals += 1
        sessions[id] = session
    }

    /// Takes what `row` returned.
    public mutating func removeRow() {
        guard let entry = rows.popMin() else { return }
        forget(entry.work) { $0.rows -= 1 }
    }

    /// Takes what `chunk` returned.
    public mutating func removeChunk() {
        guard let work = chunks.popFirst() else { return }
        forget(work) { $0.chunks -= 1 }
    }

    public mutating func cancel(request: UInt64, through attempt: UInt32) {
        func isMeant(_ work: Work) -> Bool { work.item.request == request && work.item.attempt <= attempt }
        for entry in rows.unordered where isMeant(entry.work) { forget(entry.work) { $0.rows -= 1 } }
        for work in chunks where isMeant(work) { forget(work) { $0.chunks -= 1 } }
        rows = Heap(rows.unordered.filter { !isMeant($0.work) })
        chunks.removeAll(where: isMeant)
    }

    /// A session's waiting rows queue before a chunk that came after them.
    private mutating func moveRows(of id: UInt64) {
        let moved = rows.unordered.filter { $0.work.item.session == id }.sorted()
        rows = Heap(rows.unordered.filter { $0.work.item.session != id })
        chunks.append(contentsOf: moved.map(\.work))
        sessions[id] = Session(chunks: (sessions[id]?.chunks ?? 0) + moved.count)
    }

    private mutating func forget(_ work: Work, _ change: (inout Session) -> Void) {
        let id = work.item.session
        known.remove(Key(work))
        guard var session = sessions[id] else { return }
        change(&session)
        sessions[id] = session.rows + session.chunks == 0 ? nil : session
    }
}
