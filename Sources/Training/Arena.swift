import Kernels

/// Memory of a lane for activations and scratch, handed out in stack order: what one micro-batch took is given back at
/// once when the next begins. Not thread-safe; every lane has its own.
final class Arena {
    private let base: UnsafeMutablePointer<Float>
    private let capacity: Int
    private var used = 0

    /// floats: capacity. Throws when the machine has not that much memory.
    init(floats capacity: Int) throws {
        guard let base = anira_allocate(capacity) else {
            throw TrainingError.noMemory(capacity * 4, for: "activations; use a smaller micro-batch")
        }
        self.base = base
        self.capacity = capacity
    }

    deinit { anira_release(base, capacity) }

    /// Uninitialised memory for `count` floats, valid until an earlier mark is released.
    func take(_ count: Int) -> UnsafeMutablePointer<Float> {
        let start = used
        used += (count + 15) & ~15
        precondition(used <= capacity, "arena of \(capacity) floats is too small; Network.floatsNeeded is wrong")
        return base + start
    }

    /// The same, all zero.
    func takeZeros(_ count: Int) -> UnsafeMutablePointer<Float> {
        let floats = take(count)
        floats.update(repeating: 0, count: count)
        return floats
    }

    /// Runs body and gives back all it took.
    func scratch<Result>(_ body: () throws -> Result) rethrows -> Result {
        let mark = used
        defer { used = mark }
        return try body()
    }

    func removeAll() { used = 0 }
}
