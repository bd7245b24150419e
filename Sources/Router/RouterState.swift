import DequeModule
import Foundation
import KVStore
import Messaging
import Model
import Proto
import SwiftProtobuf

/// Everything the Router decides: an event goes in, actions come out. It computes nothing, owns no socket and reads no
/// clock, so its tests need neither processes nor time (docs/architecture.md, "Failure").
///
/// A request moves in chunks of positions: decider → core → coda, each chunk leased to one worker at a time.
/// Because recomputation is exact (docs/model.md, "Determinism"), every failure has one answer: hand the lease to
/// a worker again, and where that worker misses context, replay the request from there.
public struct RouterState {
    /// What the machine is built for.
    public struct Configuration: Sendable {
        public var model: ModelConfiguration
        public var vocabulary: Vocabulary?
        public var modelName: String
        public var fingerprint: String
        /// How workers hold keys and values.
        public var kv = StoredType.f32
        public var limits = RequestLimits()
        /// Most positions of one chunk.
        public var chunk = 64
        /// Chunks of one request between decider and coda.
        public var window = 4
        /// New tokens in a row that workers may begin before the Router begins one again.
        public var continuation = 16
        public var heartbeatMS = 250
        /// A worker silent for so long is lost.
        public var silenceMS = 3000
        /// A worker that computes without progress for so long is lost.
        public var stallMS = 60_000
        /// How long work waits for its lost worker to come back before another one takes it.
        public var graceMS = 3000
        /// How long work waits for any worker of its stage before its request fails.
        public var patienceMS = 30_000
        /// How often an item may be lost with its worker before its request fails.
        public var maxLosses = 3
        /// Request numbers begin here, and session numbers where there is no ledger: beyond those of an earlier run, of
        /// which workers may still hold something.
        public var firstNumber: UInt64 = 0
        public var hasLedger: Bool { durability != "memory" }
        /// What the ledger's contents survive: "process" or "power"; "memory": there is none.
        public var durability = "process"
        /// Whether actions say when things happened.
        public var traces = false

        public init(checkpoint: Checkpoint) {
            model = checkpoint.configuration
            vocabulary = checkpoint.vocabulary
            modelName = checkpoint.name
            fingerprint = checkpoint.fingerprint
        }
    }

    let configuration: Configuration
    let validator: Validator
    var cost: CostModel
    var requests: [UInt64: Request] = [:]
    /// Client id → running request.
    var running: [String: UInt64] = [:]
    /// Finished answers, oldest first.
    var results: [String: ResultRecord] = [:]
    var resultOrder: Deque<String> = []
    var resultBytes = 0
    var sessions: [String: SessionRecord] = [:]
    /// Requests of a named session, the first one active.
    var sessionQueues: [String: Deque<UInt64>] = [:]
    var workers: [String: Worker] = [:]
    /// The workers that are not lost, by their routing ids.
    var workerAt: [WorkerAddress: Worker] = [:]
    /// Sessions to be removed from a worker's store once it is back.
    var owedDrops: [String: [UInt64]] = [:]
    /// Items whose stage has no worker now.
    var orphans: [Item] = []
    var nextRequest: UInt64 = 1
    var nextSession: UInt64
    /// Session numbers below this are set aside in the ledger.
    var sessionLimit: UInt64
    var counters = Counters()
    var now: UInt64 = 0
    /// When the first event came.
    var started: UInt64 = 0
    var isShuttingDown = false
    /// When an ending of this code was warned of.
    var lastWarned: [String: UInt64] = [:]
    var actions: [RouterAction] = []

    public init(_ configuration: Configuration, ledger: LedgerContents = LedgerContents()) {
        let tensorBytes = configuration.limits.tensorBytes
        var configuration = configuration
        configuration.chunk = min(configuration.chunk, max(1, tensorBytes / (4 * configuration.model.hiddenSize)))
        self.configuration = configuration
        validator = Validator(
            configuration: configuration.model, vocabulary: configuration.vocabulary, tensorBytes: tensorBytes)
        cost = CostModel(configuration.model, configuration.limits)
        // Beyond those that sessions have, too: setting some aside may have failed.
        let known = (ledger.sessions.values.map(\.id).max() ?? 0) + 1
        nextSession = max(ledger.nextSession, known, configuration.hasLedger ? 0 : configuration.firstNumber)
        sessions = ledger.sessions
        owedDrops = ledger.owedDrops
        sessionLimit = nextSession
        for record in ledger.results { remember(record) }
        // Results of requests that an earlier run left unfinished must not meet a request of this one.
        nextRequest = max((ledger.results.map(\.number).max() ?? 0) + (1 << 20), configuration.firstNumber)
    }

    /// Takes one event and returns what it makes the Router do at once. Work is handed out by `flush`.
    public mutating func handle(_ event: RouterEvent, now: UInt64) -> [RouterAction] {
        self.now = now
        if started == 0 { started = now }
        switch event {
        case .request(let request, let digest, let client): take(request, digest, client)
        case .unreadable(let refusal, let id, let client):
            counters.rejected += 1
            replyError(id, refusal.code, refusal.message, to: client)
        case .ready(let ready, let address): register(ready, address)
        case .results(let outcomes, let address): take(outcomes, address)
        case .heartbeat(let figures): hear(figures)
        case .drain(let address): drain(address)
        case .bye(let address): leave(address)
        case .unroutable(let address):
            counters.unroutable += 1
            if let worker = workerAt[address] {
                if worker.state == .draining { leave(address) } else { lose(worker, "is unreachable") }
            }
        case .undroppable(let session, let address):
            guard let worker = workers.values.first(where: { $0.address == address }) else { break }
            owe([worker.name], session)
        case .clientLost(let client, let slow): cutOff(client, slow: slow)
        case .shutDown: isShuttingDown = true
        case .abandon: for id in requests.keys { fail(id, .unavailable, "the suite was shut down") }
        case .stoodStill(let nanoseconds): for worker in workers.values { worker.excuse(nanoseconds, now: now) }
        case .tick: tick()
        }
        return takeActions()
    }

    /// Counts a frame nobody could read.
    public mutating func countMalformed() { counters.malformed += 1 }

    /// Hands queued items to workers, as much as their credit allows, many sessions in one message.
    public mutating func flush(now: UInt64) -> [RouterAction] {
        self.now = now
        for worker in workers.values where worker.state != .lost && !worker.queue.isEmpty {
            var batch: [Work] = []
            while let item = worker.queue.first,
                worker.leasedBytes == 0 || worker.leasedBytes + item.bytes <= worker.creditBytes
            {
                worker.queue.removeFirst()
                guard let request = requests[item.request], request.attempt == item.attempt else { continue }
                var delivered = item
                delivered.isContinued = false
                batch.append(Work(wireItem(delivered, request), tensor: item.tensor))
                delivered.enqueued = now
                worker.lease(delivered)
            }
            if !batch.isEmpty { actions.append(.work(batch, to: worker.address)) }
        }
        return takeActions()
    }

    /// What is to be done, once. Nothing to do, which is most calls, takes no memory.
    private mutating func takeActions() -> [RouterAction] {
        defer { actions = [] }
        return actions
    }

    /// Whether each stage has a worker.
    public var isReady: Bool {
        StageKind.allCases.allSatisfy { stage in workers.values.contains { $0.stage == stage && $0.state == .ready } }
    }

    /// Requests admitted and not ended.
    public var activeRequests: Int { requests.count }

    private mutating func wireItem(_ item: Item, _ request: Request) -> Anira_Worker_V1_WorkItem {
        var wire = Anira_Worker_V1_WorkItem()
        wire.request = item.request
        wire.attempt = item.attempt
        wire.session = request.session
        wire.position = UInt32(item.position)
        wire.count = UInt32(item.count)
        wire.trusted = UInt32(request.trusted(item.stage))
        wire.persist = request.job.kind == .generate
        wire.sessionName = request.job.session
        wire.requestID = request.clientID
        wire.enqueuedNs = now
        let range = item.position..<(item.position + item.count)
        switch item.stage {
        case .decider: wire.decider = deciderWork(range, request)
        case .core: wire.core = coreWork(item, range, request)
        case .coda: wire.coda = codaWork(range, request)
        }
        guard let onward = onward(item, request) else { return wire }
        do {
            wire.onward = try onward.serializedData()
            if onward.hasContinuation { wire.continuing = UInt32(mostContinuing(request)) }
            request.handedOver = HandedOver(position: item.position, stage: item.stage)
        } catch {
            actions.append(.log(.error, "cannot encode a request's way: \(error)"))
        }
        return wire
    }

    /// The workers that an item's rows may go on to without coming back here. Only a request's last known chunk, alone
    /// on its way: nothing of the request can then overtake it or be overtaken.
    private mutating func onward(_ item: Item, _ request: Request) -> Anira_Worker_V1_Onward? {
        guard item.stage != .coda, request.chunksInFlight == 1, item.position + item.count == request.tokens.count,
            let coda = peer(.coda, request)
        else { return nil }
        var onward = Anira_Worker_V1_Onward()
        onward.coda = coda
        onward.codaWork = codaWork(item.position..<(item.position + item.count), request)
        guard let core = peer(.core, request) else { return item.stage == .decider ? nil : onward }
        onward.core = core
        if let continuation = continuation(request) { onward.continuation = continuation }
        return onward
    }

    /// Tokens that workers may go on with: those sure to be wanted and to have room.
    private func mostContinuing(_ request: Request) -> Int {
        min(
            configuration.continuation, request.job.maxNewTokens - request.newTokens.count - 1,
            configuration.model.maxPositionEmbeddings - request.tokens.count)
    }

    /// What lets the workers go on with the tokens they draw, if there are any whose depths are the decider's to choose.
    private mutating func continuation(_ request: Request) -> Anira_Worker_V1_Continuation? {
        guard request.job.kind == .generate, mostContinuing(request) > 0,
            request.tokens.count >= request.promptStart + request.job.depths.count,
            let decider = peer(.decider, request)
        else { return nil }
        return .with {
            $0.decider = decider
            $0.depth = wireRule(request.rule(configuration.model), request, known: false)
            $0.stopTokens = request.job.stopTokens.sorted()
        }
    }

    private mutating func peer(_ stage: StageKind, _ request: Request) -> Anira_Worker_V1_Peer? {
        guard let worker = choose(stage, request), !worker.inbox.isEmpty else { return nil }
        return .with {
            $0.inbox = worker.inbox
            $0.worker = String(decoding: worker.address, as: UTF8.self)
            $0.trusted = UInt32(request.trusted(stage))
        }
    }

    private func deciderWork(_ range: Range<Int>, _ request: Request) -> Anira_Worker_V1_DeciderWork {
        var work = Anira_Worker_V1_DeciderWork()
        work.tokens = Array(request.tokens[range])
        let known = request.knownDepths(range)
        work.depth = wireRule(request.rule(configuration.model), request, known: known != nil)
        work.depths = Data(known ?? [])
        return work
    }

    private func coreWork(_ item: Item, _ range: Range<Int>, _ request: Request) -> Anira_Worker_V1_CoreWork {
        var work = Anira_Worker_V1_CoreWork()
        let known = item.depths ?? request.knownDepths(range)
        work.depths = Data(known ?? [])
        work.depth = wireRule(request.rule(configuration.model), request, known: known != nil)
        return work
    }

    private func codaWork(_ range: Range<Int>, _ request: Request) -> Anira_Worker_V1_CodaWork {
        var work = Anira_Worker_V1_CodaWork()
        if request.job.kind == .score {
            work.targets = Array(
                request.tokens[(range.lowerBound + 1)..<min(range.upperBound + 1, request.tokens.count)])
            work.logits = request.job.wantsLogits
        } else if range.upperBound == request.tokens.count, request.newTokens.count < request.job.maxNewTokens {
            work.sample = true
            work.sampling.temperature = request.job.sampling.temperature
            work.sampling.topK = UInt32(request.job.sampling.topK)
            work.sampling.topP = request.job.sampling.topP
            work.sampling.seed = request.job.sampling.seed
        }
        return work
    }

    private func wireRule(_ rule: DepthRule, _ request: Request, known: Bool) -> Anira_Worker_V1_DepthRule {
        var wire = Anira_Worker_V1_DepthRule()
        wire.rule =
            switch known ? .perToken : rule.policy {
            case .fixed: .fixed
            case .perToken: .perToken
            case .argmax: .argmax
            case .cdf: .cdf
            case .mean: .mean
            }
        wire.value = UInt32(rule.value)
        wire.threshold = rule.threshold
        wire.minimum = UInt32(rule.minimum)
        wire.maximum = UInt32(rule.maximum)
        wire.distributions = request.job.wantsDistributions && !known
        return wire
    }
}
