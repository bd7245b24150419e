import KVStore
import Messaging
import Proto

/// The computation of one service: admits items, advances in steps, posts outcomes. Confined to one thread.
public protocol Stage: AnyObject {
    /// Takes an item; it is answered later through the outcome sink, exactly once unless it is cancelled.
    func admit(_ work: Work)
    /// One round over everything admitted. False when there was nothing to do.
    func step() -> Bool
    /// Forgets what is held of a request, up to this attempt; it gets no more outcomes.
    func cancel(request: UInt64, through attempt: UInt32)
    /// The session is no longer needed in memory, or (drop) at all.
    func release(session: UInt64, drop: Bool)
    /// Counts since start.
    var figures: StageFigures { get }
    /// Items admitted and not answered.
    var pending: Int { get }
    var store: KVStore { get }
}

extension Stage {
    public func release(session: UInt64, drop: Bool) { store.release(session: session, drop: drop) }
}

/// Counts of a stage since its start.
public struct StageFigures: Sendable {
    public var steps = 0
    /// Rows over all steps.
    public var rows = 0
    /// Positions finished.
    public var tokens = 0
    /// Cores: positions that left at depth 1…K.
    public var depthHistogram: [Int] = []

    public init() {}
}

/// How many rows one step may take. Products are at their best from 16 rows on, so that more only makes everyone wait:
/// the sessions beyond keep the other stages busy meanwhile.
public struct RowLimits: Sendable {
    /// Most rows of sessions that decode.
    public var decoding: Int
    /// Most rows of prompts beside them.
    public var prompts: Int
    public var all: Int { decoding + prompts }
    /// Most rows of a step that takes chunks whole: one may be larger than `prompts`, up to the model's positions.
    public func mostRows(positions: Int) -> Int { decoding + max(prompts, positions) }

    public init(decoding: Int = 32, prompts: Int = 64) {
        self.decoding = decoding
        self.prompts = prompts
    }
}
