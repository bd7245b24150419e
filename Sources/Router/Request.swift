import Messaging
import Model
import Proto

/// Rows on their way to a worker: one chunk of one request at one stage.
struct Item: Sendable {
    let request: UInt64
    let attempt: UInt32
    let stage: StageKind
    let position: Int
    let count: Int
    var tensor: Tensor?
    /// core: exit depths decided before the core.
    var depths: [UInt8]?
    /// Times it was handed out again because its worker never got it, or its result was lost.
    var recoveries = 0
    /// decider: it came from the coda, not from here.
    var isContinued = false
    /// When it was queued, later when it was leased.
    var enqueued: UInt64

    var key: ItemKey { ItemKey(request: request, stage: stage, position: position) }
    var bytes: Int { 64 + count * 4 + (tensor?.count ?? 0) }
}

/// A chunk that workers hand on to each other, and after it the tokens they draw. Results come on connections of their own,
/// so that a later one may arrive first: it waits here for its turn.
struct HandedOver: Sendable {
    var position: Int
    /// The stage whose result is next.
    var stage: StageKind
    var ahead: [(outcome: Outcome, from: WorkerAddress)] = []
}

struct ItemKey: Hashable, Sendable {
    let request: UInt64
    let stage: StageKind
    let position: Int
}

/// A client waiting for a running request's ending under an id of its own.
struct Watcher: Sendable {
    let id: String
    let client: ClientAddress
}

/// Where one admitted request stands. Positions count from the start of its session. An object of RouterState's alone: every
/// token looks it up and changes it several times, and copies of its lists would cost more than the work.
final class Request {
    let id: UInt64
    let clientID: String
    let digest: UInt64
    let job: Job
    /// Mean of the depths that the client gives, if it does.
    let meanGivenDepth: Double?
    let session: UInt64
    let received: UInt64
    let deadline: UInt64?
    /// Who waits for its answers: the sender, and senders of the same id later.
    var clients: [ClientAddress]
    /// Who asked for its `result` while it runs, so many at most.
    static let mostWatchers = 1024
    var watchers: [Watcher] = []

    /// History, prompt and new tokens.
    var tokens: [Int32]
    /// First position of this request's own tokens.
    let promptStart: Int
    let promptEnd: Int
    /// First position this request computes (a session's last token may still be due).
    let computeStart: Int

    /// Attempt number; results of an older one are late.
    var attempt: UInt32 = 0
    var replays = 0
    /// How often work was lost with its worker, over all attempts.
    var losses: [ItemKey: Int] = [:]
    /// Next position to send to the decider, and to the coda.
    var frontier: Int
    var nextCoda: Int
    /// Positions that went through all stages.
    var done: Int
    /// Chunks between decider and coda.
    var chunksInFlight = 0
    /// The chunk that goes from worker to worker, when it is the only one on its way.
    var handedOver: HandedOver?
    /// Core results that came before an earlier chunk's.
    var early: [Int: (count: Int, depths: [UInt8], tensor: Tensor?)] = [:]
    /// Names of the workers that hold the session, by stage.
    var pins: [String]
    /// Those that had it when the request began.
    private let holders: [String]

    /// Exit depth of every known position.
    var depths: [UInt8]
    var distributions: [[Float]]
    /// score: log-probability of token p+1 at index p.
    var logprobs: [Float] = []
    var newLogprobs: [Float] = []
    var logits: [Int: Tensor] = [:]
    var clock: RequestClock
    /// Waiting for an earlier request of its session.
    var waiting = false

    var newTokens: ArraySlice<Int32> { tokens[promptEnd...] }

    /// p(1…) of a position, empty when none was asked for or none was computed.
    func distribution(_ position: Int) -> [Float] {
        distributions.indices.contains(position) ? distributions[position] : []
    }

    init(
        id: UInt64, clientID: String, digest: UInt64, job: Job, session: UInt64, history: SessionRecord?,
        clients: [ClientAddress], now: UInt64, deadline: UInt64?
    ) {
        self.id = id
        self.clientID = clientID
        self.digest = digest
        self.job = job
        let given = job.depths.reduce(0) { $0 + job.rule.clamped(Int($1)) }
        meanGivenDepth = job.depths.isEmpty ? nil : Double(given) / Double(job.depths.count)
        self.session = session
        self.received = now
        clock = RequestClock(start: now)
        self.deadline = deadline
        self.clients = clients
        let old = history?.tokens ?? []
        tokens = old + job.tokens
        promptStart = old.count
        promptEnd = tokens.count
        depths = history.map { Array($0.depths) } ?? []
        // The last token is always computed (again): its logits predict the first new one.
        computeStart = min(depths.count, max(0, tokens.count - 1))
        (frontier, nextCoda, done) = (computeStart, computeStart, computeStart)
        distributions = [[Float]](repeating: [], count: depths.count)
        holders = history?.pins ?? ["", "", ""]
        pins = holders
        if job.kind == .score { logprobs = [Float](repeating: 0, count: max(0, tokens.count - 1)) }
    }

    /// Back to `position`: what was in flight is forgotten, known tokens will be computed again.
    func rewind(to position: Int, rowBytes: Int) {
        // A chunk's logits stay together: the replay begins with the chunk.
        let chunk = logits.first { $0.key <= position && position < $0.key + $0.value.count / rowBytes }?.key
        let position = chunk ?? position
        logits = logits.filter { $0.key < position }
        attempt += 1
        replays += 1
        (frontier, nextCoda, done) = (position, position, position)
        chunksInFlight = 0
        handedOver = nil
        early.removeAll()
    }

    /// Positions of its history that may be believed where its worker of this stage has them from earlier requests. None where the
    /// session has moved: a copy there is of a request that failed, or older than what was computed since.
    func trusted(_ stage: StageKind) -> Int { pins[stage.index] == holders[stage.index] ? computeStart : 0 }

    /// Depths for positions already decided (a replay) or given by the client; nil: the rule decides.
    func knownDepths(_ range: Range<Int>) -> [UInt8]? {
        if range.upperBound <= depths.count { return Array(depths[range]) }
        guard job.rule.policy == .perToken, range.lowerBound >= promptStart,
            range.upperBound - promptStart <= job.depths.count
        else { return nil }
        return job.depths[(range.lowerBound - promptStart)..<(range.upperBound - promptStart)].map {
            UInt8(job.rule.clamped(Int($0)))
        }
    }

    /// The end of the chunk that starts at `start`: never across the borders where the source of depths changes.
    func chunkEnd(from start: Int, limit: Int) -> Int {
        let borders = [computeStart, depths.count, promptStart, promptStart + job.depths.count, tokens.count]
        return borders.lazy.filter { $0 > start }.reduce(start + limit, min)
    }

    /// The rule for a chunk whose depths are not known: per_token falls back to the checkpoint's own beyond its list.
    func rule(_ configuration: ModelConfiguration) -> DepthRule {
        guard job.rule.policy == .perToken else { return job.rule }
        var rule = configuration.defaultRule
        (rule.minimum, rule.maximum) = (job.rule.minimum, job.rule.maximum)
        return rule
    }
}
