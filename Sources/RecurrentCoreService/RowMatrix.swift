import Model

/// One active row of the core: a position on its way through the iterations.
struct Row {
    /// Key of the running item it belongs to.
    let item: Int
    let session: UInt64
    /// Which of the item's rows.
    let index: Int
    let position: Int
    let isPrompt: Bool
    /// Iterations done.
    var depth = 0
    /// Exit depth when known before the core.
    let planned: Int?
    var exit = OnlineExit()
}

/// The matrix that an iteration takes one step further: all active rows, of any session, at any depth, in any order.
struct RowMatrix: ~Copyable {
    var rows: [Row] = []
    /// [capacity, H]: the state of `rows[i]` is its row i.
    let states: UnsafeMutablePointer<Float>
    private let width: Int

    /// width: H, floats of a state.
    init(capacity: Int, width: Int) {
        self.width = width
        states = .allocate(capacity: capacity * width)
    }

    deinit { states.deallocate() }

    var count: Int { rows.count }
    /// Rows of sessions that decode.
    var decoding: Int { rows.count { !$0.isPrompt } }
    /// Rows of prompts.
    var prompts: Int { rows.count(where: \.isPrompt) }

    /// [H], the state of one row; that of the next row to join where `row` is `count`.
    func state(of row: Int) -> UnsafeMutablePointer<Float> { states + row * width }

    /// The last row takes the place of the one that leaves: order does not matter, rows are independent.
    mutating func remove(_ row: Int) {
        let last = rows.count - 1
        if row != last {
            rows[row] = rows[last]
            state(of: row).update(from: state(of: last), count: width)
        }
        rows.removeLast()
    }
}
