import KVStore
import Messaging
import Model
import Proto

/// The queue and batch of a stage whose positions have one entry (decider, coda): takes waiting items in the order of
/// `WaitingWork`, makes their rows visible to attention, and hands over one matrix.
public struct BatchQueue {
    private var waiting = WaitingWork()
    private let admission: Admission
    private let store: KVStore
    private let limits: RowLimits
    private var chunkWaits = false
    /// Items of the current batch, their rows back to back.
    public private(set) var items: [AdmittedItem] = []
    public private(set) var cache: CacheView
    public var count: Int { waiting.count }

    public init(store: KVStore, admission: Admission, limits: RowLimits) {
        self.store = store
        self.admission = admission
        self.limits = limits
        cache = CacheView(arena: store.arena, stride: store.stride, type: store.type.kernelType)
    }

    public mutating func append(_ work: Work) { waiting.append(work, iterations: 1) }

    public mutating func cancel(request: UInt64, through attempt: UInt32) {
        waiting.cancel(request: request, through: attempt)
    }

    /// Forms the next batch; returns its rows, 0 when nothing can run.
    public mutating func next() -> Int {
        items.removeAll(keepingCapacity: true)
        cache.removeAll()
        // Where memory had no room for a chunk, it is asked before anyone else: there is room or an answer at the latest
        // when nothing else holds any.
        var prompts = 0
        if chunkWaits { takeChunks(&prompts) }
        guard !chunkWaits else { return rows }
        takeRows()
        takeChunks(&prompts)
        return rows
    }

    private var rows: Int { items.reduce(0) { $0 + $1.count } }

    private mutating func takeRows() {
        var room = limits.decoding
        while room > 0, let work = waiting.row, take(work) == .settled {
            waiting.removeRow()
            room -= 1
        }
    }

    /// taken: rows of this batch from chunks, and from single rows that waited among them.
    private mutating func takeChunks(_ taken: inout Int) {
        chunkWaits = false
        while let work = waiting.chunk, taken == 0 || taken + Int(work.item.count) <= limits.prompts {
            let turn = take(work)
            chunkWaits = turn == .noRoom
            guard turn == .settled else { return }
            waiting.removeChunk()
            taken += Int(work.item.count)
        }
    }

    private enum Turn { case settled, nextBatch, noRoom }

    /// Admits an item to the batch, or answers it otherwise, or leaves it where it is.
    private mutating func take(_ work: Work) -> Turn {
        // A second item of a session continues it; one that starts it over waits for the next batch.
        let session = work.item.session
        if items.contains(where: { $0.session == session }),
            !store.follows(session: session, position: Int(work.item.position), request: work.item.request)
        {
            return .nextBatch
        }
        switch admission.answer(work, busy: !items.isEmpty || store.isCommitting) {
        case .wait: return .noRoom
        case .answered: return .settled
        case .admitted(let item):
            place(item)
            items.append(item)
            return .settled
        }
    }

    private mutating func place(_ item: AdmittedItem) {
        for position in item.range {
            cache.writes.append(store.appendEntry(session: item.session, position: position))
            cache.positions.append(position)
        }
        let start = cache.visible.count
        let end = item.range.upperBound
        cache.visible.append(contentsOf: repeatElement(0, count: end))
        cache.visible.withUnsafeMutableBufferPointer {
            store.visibleRows(session: item.session, count: end, deepest: 0, into: $0.baseAddress! + start)
        }
        for position in item.range {
            cache.starts.append(start)
            cache.counts.append(Int32(position + 1))
        }
    }
}
