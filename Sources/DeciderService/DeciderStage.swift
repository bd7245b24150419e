import Foundation
import KVStore
import Messaging
import Model
import Proto
import Worker

/// Tokens → h⁰ rows and, where the policy is decided before the core, each token's exit depth.
public final class DeciderStage: Stage {
    private let prelude: Prelude
    public let store: KVStore
    private var departures: Departures
    private let admission: Admission
    private var queue: BatchQueue
    private let h: UnsafeMutablePointer<Float>  // [decoding + positions, H]
    public private(set) var figures = StageFigures()
    public var pending: Int { queue.count }

    /// limits: of one matrix; one chunk of a prompt may be larger, up to the model's positions.
    public init(
        _ prelude: Prelude, store: KVStore, limits: RowLimits, post: @escaping OutcomeSink, handOver: @escaping HandOver
    ) {
        let c = prelude.configuration
        self.prelude = prelude
        self.store = store
        departures = Departures(store: store, post: post, handOver: handOver)
        admission = Admission(store: store, positions: c.maxPositionEmbeddings, width: 0, post: post)
        queue = BatchQueue(store: store, admission: admission, limits: limits)
        h = .allocate(capacity: limits.mostRows(positions: c.maxPositionEmbeddings) * c.hiddenSize)
    }

    deinit { h.deallocate() }

    public func admit(_ work: Work) {
        let c = prelude.configuration
        let decider = work.item.decider
        let fits =
            decider.tokens.count == work.item.count && decider.tokens.allSatisfy { $0 >= 0 && $0 < c.vocabSize }
            && (decider.depths.isEmpty || decider.depths.count == work.item.count)
            && decider.depths.allSatisfy { $0 >= 1 && $0 <= c.maxDepth } && decider.depth.fits(maxDepth: c.maxDepth)
        guard fits else {
            _ = admission.refuse(work, .internal, "malformed decider work: tokens or depths out of range")
            return
        }
        queue.append(work)
    }

    public func cancel(request: UInt64, through attempt: UInt32) { queue.cancel(request: request, through: attempt) }

    public func step() -> Bool {
        let before = queue.count
        let rows = queue.next()
        guard rows > 0 else { return queue.count < before }
        let width = prelude.configuration.hiddenSize
        var row = 0
        for item in queue.items {
            for token in item.work.item.decider.tokens {
                prelude.embed(token, into: h + row * width)
                row += 1
            }
        }
        prelude.forward(h, rows: rows, cache: queue.cache)
        row = 0
        for item in queue.items {
            finish(item, h + row * width)
            row += item.count
        }
        departures.leave()
        store.flush()
        figures.steps += 1
        figures.rows += rows
        figures.tokens += rows
        return true
    }

    private func finish(_ item: AdmittedItem, _ rows: UnsafePointer<Float>) {
        let c = prelude.configuration
        let work = item.work.item.decider
        var outcome = Admission.reply(to: item.work)
        outcome.decider = .init()
        let rule = DepthRule(work.depth)
        var deciding: UInt64 = 0
        if !work.depths.isEmpty {
            outcome.decider.depths = work.depths
        } else if rule.policy == .fixed {
            outcome.decider.depths = Data(repeating: UInt8(rule.clamped(rule.value)), count: item.count)
        } else if c.decider == .early {
            let start = monotonicNanoseconds()
            defer { deciding = monotonicNanoseconds() - start }
            let p = UnsafeBufferPointer(
                start: prelude.distributions(rows, rows: item.count), count: item.count * c.maxDepth)
            outcome.decider.depths = Data(
                (0..<item.count).map { UInt8(rule.depth(of: p[($0 * c.maxDepth)..<(($0 + 1) * c.maxDepth)])) })
            if work.depth.distributions { outcome.decider.distributions = Array(p) }
        }
        let tensor = Tensor(floats: UnsafeBufferPointer(start: rows, count: item.count * c.hiddenSize))
        let depths = outcome.decider.depths
        departures.add(item, Outcome(outcome, tensor: tensor), decidingNS: deciding, to: item.work.onward.core) {
            next in
            next.core.depths = depths
            next.core.depth = work.depth
            // Reported here already, unless the core decides.
            next.core.depth.distributions = work.depth.distributions && depths.isEmpty
        }
    }
}
