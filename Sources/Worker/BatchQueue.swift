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
        var rows = 0
        var promptRows = 0
        var mayTakePrompt = true
        while let (work, isPrompt) = waiting.next(mayTakePrompt: mayTakePrompt) {
            let count = Int(work.item.count)
            guard !isPrompt || promptRows == 0 || promptRows + count <= limits.prompts else {
                mayTakePrompt = false
                continue
            }
            guard rows == 0 || rows + count <= limits.all else { return rows }
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
                rows += count
                if isPrompt { promptRows += count }
            }
            waiting.remove(isPrompt: isPrompt)
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
