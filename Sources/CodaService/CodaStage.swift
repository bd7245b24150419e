import Foundation
import KVStore
import Kernels
import Messaging
import Model
import Proto
import Worker

/// Exit states → logits → the next token, or the log-probabilities of given ones.
public final class CodaStage: Stage {
    private let coda: Coda
    public let store: KVStore
    private var departures: Departures
    private let admission: Admission
    private var queue: BatchQueue
    private let h: UnsafeMutablePointer<Float>  // [decoding + positions, H]
    private let wanted: UnsafeMutablePointer<Float>  // [as many, H]: rows whose logits someone asked for
    public private(set) var figures = StageFigures()
    public var pending: Int { queue.count }

    /// limits: of one matrix; one chunk of a prompt may be larger, up to the model's positions.
    public init(
        _ coda: Coda, store: KVStore, limits: RowLimits, post: @escaping OutcomeSink, handOver: @escaping HandOver
    ) {
        let c = coda.configuration
        self.coda = coda
        self.store = store
        departures = Departures(store: store, post: post, handOver: handOver)
        admission = Admission(store: store, positions: c.maxPositionEmbeddings, width: c.hiddenSize, post: post)
        queue = BatchQueue(store: store, admission: admission, limits: limits)
        let rows = limits.mostRows(positions: c.maxPositionEmbeddings)
        h = .allocate(capacity: rows * c.hiddenSize)
        wanted = .allocate(capacity: rows * c.hiddenSize)
    }

    deinit {
        h.deallocate()
        wanted.deallocate()
    }

    public func admit(_ work: Work) {
        let c = coda.configuration
        let item = work.item.coda
        let fits =
            item.targets.count <= work.item.count && item.targets.allSatisfy { $0 >= 0 && $0 < c.vocabSize }
            // Who draws a token has the last row's logits only, unless all are wanted.
            && (item.targets.isEmpty || !item.sample || item.logits)
        guard fits else {
            _ = admission.refuse(work, .internal, "malformed coda work: targets out of range, or beside a draw")
            return
        }
        queue.append(work)
    }

    public func cancel(request: UInt64, through attempt: UInt32) { queue.cancel(request: request, through: attempt) }

    public func step() -> Bool {
        let before = queue.count
        let rows = queue.next()
        guard rows > 0 else { return queue.count < before }
        let width = coda.configuration.hiddenSize
        var row = 0
        for item in queue.items {
            item.work.tensor?.copyFloats(from: 0, count: item.count * width, to: h + row * width)
            row += item.count
        }
        coda.forward(h, rows: rows, cache: queue.cache)
        let logits = gather(width)
        var offset = 0
        for item in queue.items {
            finish(item, logits.map { $0 + offset * coda.configuration.vocabSize })
            offset += wantedRows(item).count
        }
        departures.leave()
        store.flush()
        figures.steps += 1
        figures.rows += rows
        figures.tokens += rows
        return true
    }

    /// Rows of an item whose logits are needed: all that have targets, or the last one when sampling.
    private func wantedRows(_ item: AdmittedItem) -> Range<Int> {
        let work = item.work.item.coda
        if work.logits { return 0..<item.count }
        if work.sample { return (item.count - 1)..<item.count }
        return 0..<work.targets.count
    }

    /// One head product for the whole batch: nil when nobody needs logits.
    private func gather(_ width: Int) -> UnsafePointer<Float>? {
        var row = 0
        var count = 0
        for item in queue.items {
            for index in wantedRows(item) {
                (wanted + count * width).update(from: h + (row + index) * width, count: width)
                count += 1
            }
            row += item.count
        }
        return count == 0 ? nil : coda.logits(wanted, rows: count)
    }

    private func finish(_ item: AdmittedItem, _ logits: UnsafePointer<Float>?) {
        let size = coda.configuration.vocabSize
        let work = item.work.item.coda
        var outcome = Admission.reply(to: item.work)
        outcome.coda = .init()
        var tensor: Tensor?
        if let logits {
            outcome.coda.logprobs = work.targets.enumerated().map { row, target in
                logits[row * size + Int(target)] - anira_logsumexp(logits + row * size, Int32(size))
            }
            if work.sample {
                let last = UnsafeBufferPointer(start: logits + (wantedRows(item).count - 1) * size, count: size)
                let drawn = SamplingRule(work.sampling).draw(last, position: item.range.upperBound - 1)
                outcome.coda.sampled = true
                outcome.coda.token = drawn.token
                outcome.coda.logprob = drawn.logprob
            }
            outcome.coda.logits = work.logits
            if work.logits { tensor = Tensor(floats: UnsafeBufferPointer(start: logits, count: item.count * size)) }
        }
        // The drawn token's own way through the stages, where the Router has left it to the workers.
        let (result, continuation) = (outcome.coda, item.work.onward.continuation)
        let goesOn =
            result.sampled && item.work.item.continuing > 0 && !continuation.stopTokens.contains(result.token)
        departures.add(item, Outcome(outcome, tensor: tensor), to: goesOn ? continuation.decider : .init()) { next in
            next.position = UInt32(item.range.upperBound)
            next.count = 1
            next.continuing -= 1
            next.decider.tokens = [result.token]
            next.decider.depth = continuation.depth
        }
    }
}

extension SamplingRule {
    /// The rule as the Router sent it.
    init(_ wire: Anira_Worker_V1_SamplingRule) {
        self.init(
            temperature: wire.temperature, topK: Int(clamping: wire.topK), topP: wire.topP, seed: wire.seed)
    }
}
