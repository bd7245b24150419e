import DequeModule
import KVStore
import Messaging
import Model
import Proto

/// The queue and batch of a stage whose positions have one entry (decider, coda): takes waiting items, first come
/// first served, makes their rows visible to attention, and hands over one matrix.
public struct BatchQueue {
    private var waiting: Deque<Work> = []
    private let admission: Admission
    private let store: KVStore
    private let maxRows: Int
    /// Items of the current batch, their rows back to back.
    public private(set) var items: [AdmittedItem] = []
    public private(set) var cache: CacheView
    public var count: Int { waiting.count }

    public init(store: KVStore, admission: Admission, maxRows: Int) {
        self.store = store
        self.admission = admission
        self.maxRows = maxRows
        cache = CacheView(arena: store.arena, stride: store.stride)
    }

    public mutating func append(_ work: Work) { waiting.append(work) }

    public mutating func cancel(request: UInt64, through attempt: UInt32) {
        waiting.removeAll { $0.item.request == request && $0.item.attempt <= attempt }
    }

    /// Forms the next batch; returns its rows, 0 when nothing can run.
    public mutating func next() -> Int {
        items.removeAll(keepingCapacity: true)
        cache.removeAll()
        var rows = 0
        while let work = waiting.first, rows == 0 || rows + Int(work.item.count) <= maxRows {
            // A second item of a session continues it; one that starts it over waits for the next batch.
            let session = work.item.session
            if items.contains(where: { $0.session == session }),
                store.length(session: session) != Int(work.item.position)
            {
                return rows
            }
            switch admission.answer(work, busy: !items.isEmpty || store.isCommitting) {
            case .wait: return rows
            case .answered: break
            case .admitted(let item):
                place(item)
                items.append(item)
                rows += item.count
            }
            waiting.removeFirst()
        }
        return rows
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
