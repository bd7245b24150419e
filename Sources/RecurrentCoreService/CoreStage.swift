import Foundation
import KVStore
import Messaging
import Model
import Proto
import Worker

/// Continuous depth-wise batching (docs/architecture.md, "Scheduling").
///
/// The weights are the same at every depth, so all active rows, of any session, prompt or decode, at any depth,
/// form one matrix. A step admits waiting items, applies the core once to every active row, and lets finished rows
/// leave at once. Within a session an earlier chunk is always at least as many iterations ahead, so a later chunk
/// may join while it still runs: every entry it may look up exists.
public final class CoreStage: Stage {
    /// An item with rows in the matrix, and what has left of it.
    private struct Running {
        let item: AdmittedItem
        let rule: DepthRule
        let wantsDistributions: Bool
        var remaining: Int
        /// The stage's `deciding` when the item began.
        let decidingBefore: UInt64
        /// Nanoseconds of its steps that went into deciding; known when its last row has left.
        var deciding: UInt64 = 0
        var exits: [Float]  // [count, H]
        var depths: [UInt8]
        var distributions: [[Float]]
    }

    private let core: RecurrentCore
    public let store: KVStore
    private var departures: Departures
    private let post: OutcomeSink
    private let admission: Admission
    private let limits: RowLimits
    private var waiting = WaitingWork()
    private var running: [Int: Running] = [:]
    /// The chunk of which some rows have joined, and how many. It is the first that waits.
    private var joining: (item: Int, rows: Int)?
    /// Memory had no room for the chunk whose turn it is.
    private var chunkWaits = false
    private var nextItem = 0
    private var matrix: RowMatrix
    private let exited: UnsafeMutablePointer<Float>  // [limits.all, H]: states that left in this step
    private var cache: CacheView
    /// Of this iteration: where in `cache.visible` the list begins that a chunk's rows at one depth share.
    private var lists: [ListKey: Int] = [:]
    /// Nanoseconds spent choosing depths so far.
    private var deciding: UInt64 = 0
    private var exitCache: CacheView
    public private(set) var figures = StageFigures()
    public var pending: Int { waiting.count + running.count - (joining == nil ? 0 : 1) }

    /// limits: rows of the matrix beyond which waiting ones stay out of it.
    public init(
        _ core: RecurrentCore, store: KVStore, limits: RowLimits, post: @escaping OutcomeSink,
        handOver: @escaping HandOver
    ) {
        let c = core.configuration
        self.core = core
        self.store = store
        self.post = post
        departures = Departures(store: store, post: post, handOver: handOver)
        self.limits = limits
        admission = Admission(store: store, positions: c.maxPositionEmbeddings, width: c.hiddenSize, post: post)
        matrix = RowMatrix(capacity: limits.all, width: c.hiddenSize)
        exited = .allocate(capacity: limits.all * c.hiddenSize)
        cache = CacheView(arena: store.arena, stride: store.stride, type: store.type.kernelType)
        exitCache = cache
        figures.depthHistogram = [Int](repeating: 0, count: c.maxDepth)
    }

    deinit { exited.deallocate() }

    public func admit(_ work: Work) {
        let c = core.configuration
        let item = work.item.core
        let fits =
            item.depths.allSatisfy { $0 >= 1 && $0 <= c.maxDepth }
            && (item.depths.count == work.item.count || (item.depths.isEmpty && c.decider == .online))
            && item.depth.fits(maxDepth: c.maxDepth)
        guard fits else {
            _ = admission.refuse(work, .internal, "malformed core work: depths out of range")
            return
        }
        // Online, the rule's deepest.
        let iterations = item.depths.max().map(Int.init) ?? Int(item.depth.maximum)
        waiting.append(work, iterations: iterations)
    }

    public func cancel(request: UInt64, through attempt: UInt32) {
        waiting.cancel(request: request, through: attempt)
        removeRows { $0.work.item.request == request && $0.work.item.attempt <= attempt }
    }

    public func release(session: UInt64, drop: Bool) {
        removeRows { $0.session == session }
        store.release(session: session, drop: drop)
    }

    public func step() -> Bool {
        let before = pending
        join()
        let moved = matrix.count > 0
        if moved {
            prepareIteration()
            core.iterate(matrix.states, rows: matrix.count, cache: cache)
            figures.steps += 1
            figures.rows += matrix.count
            leave(decide())
        }
        handOver(mayWait: moved)
        return moved || pending < before
    }
}

// MARK: - Joining

extension CoreStage {
    /// Rows that decode and rows of prompts, each as far as there is room for them (docs/architecture.md, "Scheduling").
    ///
    /// Where memory has no room for one kind, the other begins nothing either: what runs then comes to its end, and there
    /// is room or an answer. A chunk that has joined in part always goes on, so that it comes to its end too.
    private func join() {
        continueChunk()
        if chunkWaits { beginChunks() }
        guard !chunkWaits, beginRows() else { return }
        beginChunks()
    }

    /// False: the next row has to wait for memory.
    private func beginRows() -> Bool {
        while decodingRoom > 0, let work = waiting.row {
            switch begin(work) {
            case .wait: return false
            case .answered: break
            case .admitted(let item): add(start(item), 0..<1, isPrompt: false)
            }
            waiting.removeRow()
        }
        return true
    }

    private func beginChunks() {
        chunkWaits = false
        while joining == nil, promptRoom > 0, let work = waiting.chunk {
            switch begin(work) {
            case .wait:
                chunkWaits = true
                return
            case .answered: waiting.removeChunk()
            case .admitted(let item):
                joining = (start(item), 0)
                continueChunk()
            }
        }
    }

    private var decodingRoom: Int { limits.decoding - matrix.decoding }
    private var promptRoom: Int { limits.prompts - matrix.prompts }

    private func continueChunk() {
        guard let (item, joined) = joining, let count = running[item]?.item.count else { return }
        let end = min(count, joined + promptRoom)
        add(item, joined..<end, isPrompt: true)
        joining = end < count ? (item, end) : nil
        if joining == nil { waiting.removeChunk() }
    }

    /// Admits an item whose turn it is.
    private func begin(_ work: Work) -> Admission.Answer {
        let (session, request, position) = (work.item.session, work.item.request, Int(work.item.position))
        if let length = store.length(session: session), length > position, let later = sameAttempt(work) {
            if later > position { askAgain(work) }
            return .answered
        }
        if !store.follows(session: session, position: position, request: request) {
            // It starts over while rows of an older attempt, or of the session's last request, are still in the matrix.
            removeRows {
                $0.session == session && ($0.range.upperBound > position || $0.work.item.request != request)
            }
        }
        return admission.answer(work, busy: !running.isEmpty || store.isCommitting)
    }

    /// The first position that this attempt already has in the matrix, when an item comes that begins there or before:
    /// it was delivered twice.
    private func sameAttempt(_ work: Work) -> Int? {
        running.values.filter {
            $0.item.work.item.request == work.item.request && $0.item.work.item.attempt == work.item.attempt
                && $0.item.first >= Int(work.item.position)
        }.map(\.item.first).min()
    }

    /// The item's own rows have left and their result was lost, if it is still owed: a replay begins with it.
    private func askAgain(_ work: Work) {
        var outcome = Admission.reply(to: work)
        outcome.needContext.from = work.item.position
        post(Outcome(outcome))
    }

    private func start(_ item: AdmittedItem) -> Int {
        let work = item.work.item.core
        let width = core.configuration.hiddenSize
        running[nextItem] = Running(
            item: item, rule: DepthRule(work.depth), wantsDistributions: work.depth.distributions,
            remaining: item.count, decidingBefore: deciding, exits: [Float](repeating: 0, count: item.count * width),
            depths: [UInt8](repeating: 0, count: item.count),
            distributions: [[Float]](repeating: [], count: work.depth.distributions ? item.count : 0))
        nextItem += 1
        return nextItem - 1
    }

    /// Rows of an item join the matrix. Those of one item do so in the order of positions: an earlier one is never
    /// behind a later one.
    private func add(_ key: Int, _ indices: Range<Int>, isPrompt: Bool) {
        let item = running[key]!.item
        let work = item.work.item.core
        let width = core.configuration.hiddenSize
        item.work.tensor?.copyFloats(
            from: indices.lowerBound * width, count: indices.count * width, to: matrix.state(of: matrix.count))
        for index in indices {
            let planned = work.depths.isEmpty ? nil : Int(work.depths[work.depths.startIndex + index])
            matrix.rows.append(
                Row(
                    item: key, session: item.session, index: index, position: item.first + index,
                    isPrompt: isPrompt, planned: planned))
        }
    }

    /// Takes rows out without an answer.
    private func removeRows(where matches: (AdmittedItem) -> Bool) {
        let gone = running.filter { matches($0.value.item) }
        guard !gone.isEmpty else { return }
        if let (item, _) = joining, gone[item] != nil { joining = nil }
        for row in matrix.rows.indices.reversed() where gone[matrix.rows[row].item] != nil { matrix.remove(row) }
        for (key, value) in gone {
            running[key] = nil
            store.abandon(session: value.item.session, from: value.item.first)
        }
    }
}

// MARK: - One iteration

extension CoreStage {
    /// Gives every active row a cache row for its entry and the list of rows it sees: for iteration t of a row,
    /// every position's deepest entry ≤ t − 1, its own included.
    private func prepareIteration() {
        cache.removeAll()
        for row in matrix.rows {
            cache.writes.append(store.appendEntry(session: row.session, position: row.position))
            cache.positions.append(row.position)
            cache.counts.append(Int32(row.position + 1))
        }
        lists.removeAll(keepingCapacity: true)
        for row in matrix.rows {
            cache.starts.append(row.isPrompt ? sharedList(row) : addList(row, count: row.position + 1))
        }
    }

    private struct ListKey: Hashable {
        let item: Int
        let depth: Int
    }

    /// Rows of a chunk at one depth share a list of all that its last position sees: a shorter prefix serves earlier ones.
    private func sharedList(_ row: Row) -> Int {
        let key = ListKey(item: row.item, depth: row.depth)
        let start = lists[key] ?? addList(row, count: running[row.item]!.item.range.upperBound)
        lists[key] = start
        return start
    }

    /// Adds a list of what `row` sees of its session's first `count` positions; returns where in `cache.visible` it begins.
    private func addList(_ row: Row, count: Int) -> Int {
        let start = cache.visible.count
        cache.visible.append(contentsOf: repeatElement(0, count: count))
        cache.visible.withUnsafeMutableBufferPointer {
            store.visibleRows(session: row.session, count: count, deepest: row.depth, into: $0.baseAddress! + start)
        }
        return start
    }

    /// Counts the iteration and returns the rows that leave now, in descending order.
    private func decide() -> [Int] {
        let k = core.configuration.maxDepth
        let asksDecider = matrix.rows.contains { $0.planned == nil && $0.depth + 1 < k }
        let lambdas = asksDecider ? askDecider() : nil
        var leaving: [Int] = []
        for row in matrix.rows.indices.reversed() {
            matrix.rows[row].depth += 1
            let depth = matrix.rows[row].depth
            if let planned = matrix.rows[row].planned {
                if depth >= planned { leaving.append(row) }
                continue
            }
            let item = matrix.rows[row].item
            let lambda = depth < k ? lambdas?[row] : nil
            let (p, leaves) = matrix.rows[row].exit.advance(lambda, depth: depth, rule: running[item]!.rule)
            if running[item]!.wantsDistributions { running[item]!.distributions[matrix.rows[row].index].append(p) }
            if leaves { leaving.append(row) }
        }
        return leaving
    }

    private func askDecider() -> UnsafePointer<Float> {
        let start = monotonicNanoseconds()
        defer { deciding += monotonicNanoseconds() - start }
        return core.exitProbabilities(matrix.states, rows: matrix.count)
    }

    /// Rows that are done: their exit entry goes to the cache, their state to the item's answer.
    private func leave(_ leaving: [Int]) {
        guard !leaving.isEmpty else { return }
        projectExits(leaving)
        let width = core.configuration.hiddenSize
        for row in leaving {
            let leaver = matrix.rows[row]
            figures.tokens += 1
            figures.depthHistogram[leaver.depth - 1] += 1
            running[leaver.item]!.exits.withUnsafeMutableBufferPointer {
                ($0.baseAddress! + leaver.index * width).update(from: matrix.state(of: row), count: width)
            }
            running[leaver.item]!.depths[leaver.index] = UInt8(leaver.depth)
            running[leaver.item]!.remaining -= 1
            if running[leaver.item]!.remaining == 0 {
                running[leaver.item]!.deciding = deciding - running[leaver.item]!.decidingBefore
            }
            matrix.remove(row)
        }
    }

    /// Items whose rows have all left go on together: as many rows as fill a matrix of the next stage, or more than are still
    /// on their way through this one (docs/architecture.md, "Scheduling").
    private func handOver(mayWait: Bool) {
        let finished = running.filter { $0.value.remaining == 0 }.sorted { $0.key < $1.key }
        let count = finished.reduce(0) { $0 + $1.value.item.count }
        let onTheirWay = matrix.decoding + waiting.rowCount
        guard count > 0, count >= limits.decoding || count > onTheirWay || !mayWait else { return }
        var leaving = 0
        for (key, done) in finished where leaving < limits.decoding {
            leaving += done.item.count
            running[key] = nil
            finish(done)
        }
        departures.leave()
        store.flush()
    }

    /// exit_kv "project": entry d of a row that left after d < K iterations, one K/V projection for all leavers.
    private func projectExits(_ leaving: [Int]) {
        let c = core.configuration
        guard c.exitKV == .project else { return }
        exitCache.removeAll()
        for row in leaving where matrix.rows[row].depth < c.maxDepth {
            let (session, position) = (matrix.rows[row].session, matrix.rows[row].position)
            let place = exited + exitCache.writes.count * c.hiddenSize
            place.update(from: matrix.state(of: row), count: c.hiddenSize)
            exitCache.writes.append(store.appendEntry(session: session, position: position))
            exitCache.positions.append(position)
        }
        if !exitCache.writes.isEmpty { core.projectExits(exited, rows: exitCache.writes.count, cache: exitCache) }
    }

    private func finish(_ done: Running) {
        var outcome = Admission.reply(to: done.item.work)
        outcome.core.depths = Data(done.depths)
        outcome.core.distributions = done.distributions.flatMap(\.self)
        let tensor = done.exits.withUnsafeBufferPointer { Tensor(floats: $0) }
        let onward = done.item.work.onward
        departures.add(done.item, Outcome(outcome, tensor: tensor), decidingNS: done.deciding, to: onward.coda) {
            $0.coda = onward.codaWork
        }
    }
}
