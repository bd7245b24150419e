/// Which rows a reader may see. Splits share no instance: each holds its part of the instances by their hash.
public enum Split: String, Sendable, Codable, CaseIterable {
    case train, validation, test

    /// Whether an instance lies in this split: 6 of 8 are train, one is validation, one is test.
    public func holds(_ instanceHash: UInt64) -> Bool {
        switch instanceHash % 8 {
        case 0: self == .test
        case 1: self == .validation
        default: self == .train
        }
    }
}

/// The endless list of a split's rows. Row `index` depends on nothing but the task, split, seed, index and size, so
/// any row is made again alone, in any order and on any number of threads.
public struct Dataset: Sendable {
    public let task: any SequenceTask
    public let split: Split
    public let seed: UInt64

    /// Draws after which a split of one size is taken to be empty. The smallest split holds an eighth of the
    /// instances: missing it so often by chance has probability 4e-60.
    static let tries = 1024

    public init(task: any SequenceTask, split: Split, seed: UInt64) {
        self.task = task
        self.split = split
        self.seed = seed
    }

    /// Row `index` of the given size, or of one drawn by the training law. A row drawn at size s equals the row asked
    /// for at size s.
    public func row(at index: UInt64, size: Int? = nil) throws(TaskError) -> Row {
        if let size { try task.check(size: size) }
        let size = size ?? drawnSize(at: index)
        var rng = stream(size: size, at: index)
        for _ in 0..<Self.tries {
            let row = task.makeRow(size: size, using: &rng)
            if split.holds(row.instanceHash) { return row }
        }
        throw TaskError(
            .emptySplit,
            "the \(split.rawValue) split of \(task.name.rawValue) holds no instance of size \(size) "
                + "(none in \(Self.tries) draws); choose a larger size or options with more instances")
    }

    private func drawnSize(at index: UInt64) -> Int {
        var rng = stream(size: Self.sizeDraws, at: index)
        return task.drawSize(using: &rng)
    }

    /// No row has this size: its streams draw the sizes.
    private static let sizeDraws = 0xFF_FFFF

    /// The counter's stream word: 4 bits task, 4 bits split, 24 bits size.
    private func stream(size: Int, at index: UInt64) -> CounterRNG {
        let task: UInt32 =
            switch task.name {
            case .mano: 1
            case .brevo: 2
            case .depo: 3
            case .lano: 4
            }
        let split: UInt32 =
            switch split {
            case .train: 0
            case .validation: 1
            case .test: 2
            }
        return CounterRNG(seed: seed, stream: task << 28 | split << 24 | UInt32(size), index: index)
    }
}
