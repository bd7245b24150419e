import DequeModule

/// The requests cancelled last, so that rows of them which another worker handed over meanwhile are not computed.
struct Cancelled {
    private var attempts: [UInt64: UInt32] = [:]
    private var order: Deque<UInt64> = []
    private let capacity = 1024

    /// Items of `request` up to this attempt are no longer wanted.
    mutating func insert(_ request: UInt64, through attempt: UInt32) {
        if attempts.updateValue(max(attempt, attempts[request] ?? 0), forKey: request) == nil { order.append(request) }
        if order.count > capacity { attempts[order.removeFirst()] = nil }
    }

    func contains(_ request: UInt64, attempt: UInt32) -> Bool { attempts[request].map { attempt <= $0 } ?? false }
}
