import Tasks

/// Rows of tokens laid end to end without padding: position r of the batch belongs to the sequence that starts at or
/// before it. Attention stays within a sequence; every other operation sees one matrix of R rows.
public struct Batch: Sendable {
    /// Token of each row, [R].
    public internal(set) var tokens: [Int32] = []
    /// Token to be predicted from each row, -1 for none, [R].
    public internal(set) var targets: [Int32] = []
    /// Whether the row counts in the compute regulariser, [R].
    public internal(set) var valid: [Bool] = []
    /// First row of each sequence, and R at the end.
    public internal(set) var starts: [Int] = [0]
    /// Sampling noise: Gumbel [R, K] for an early decider, uniform in 0…1 [R] for an online one. Empty: depths are
    /// decided by the inference rule.
    public internal(set) var noise: [Float] = []

    public init() {}

    /// One row of a task, without noise.
    public init(_ row: Row) { append(tokens: row.tokens, answer: row.answerMask.map { $0 == 1 }) }

    public var rows: Int { tokens.count }
    public var sequences: Int { starts.count - 1 }

    /// Adds one sequence. answer: 1 at the tokens that are targets of the position before them.
    public mutating func append(tokens row: [Int32], answer: [Bool], valid: [Bool]? = nil) {
        tokens += row
        for index in row.indices {
            let next = index + 1
            targets.append(next < row.count && answer[next] ? row[next] : -1)
        }
        self.valid += valid ?? [Bool](repeating: true, count: row.count)
        starts.append(tokens.count)
    }

    /// Adds all sequences of another batch.
    public mutating func append(_ other: Batch) {
        let first = rows
        tokens += other.tokens
        targets += other.targets
        valid += other.valid
        noise += other.noise
        starts += other.starts.dropFirst().map { first + $0 }
    }
}

/// Some rows of a batch, in order: those whose result is needed.
struct Selection {
    /// Rows of the batch, ascending, [A].
    private(set) var rows: [Int32] = []
    /// Their positions within their sequences, [A].
    private(set) var positions: [Int32] = []
    /// First selected row of each sequence, and A at the end.
    private(set) var starts: [Int] = [0]
    /// Whether every row is selected.
    let isAll: Bool

    var count: Int { rows.count }

    /// The rows of the batch for which `wanted` holds.
    init(_ batch: Batch, where wanted: (Int) -> Bool) {
        for sequence in 0..<batch.sequences {
            let start = batch.starts[sequence]
            for row in start..<batch.starts[sequence + 1] where wanted(row) {
                rows.append(Int32(row))
                positions.append(Int32(row - start))
            }
            starts.append(rows.count)
        }
        isAll = rows.count == batch.rows
    }

    /// Copies the selected rows of x [R, width] to out [A, width].
    func gather(_ x: UnsafePointer<Float>, width: Int, into out: UnsafeMutablePointer<Float>) {
        for (index, row) in rows.enumerated() { (out + index * width).update(from: x + Int(row) * width, count: width) }
    }

    /// Copies x [A, width] to the selected rows of out [R, width].
    func scatter(_ x: UnsafePointer<Float>, width: Int, into out: UnsafeMutablePointer<Float>) {
        for (index, row) in rows.enumerated() { (out + Int(row) * width).update(from: x + index * width, count: width) }
    }
}
