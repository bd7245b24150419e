import Foundation
import Messaging
import Model
import Proto
import Router
import TestKit

/// A Router with its clients and workers played: events go in, actions are sorted into what each side would see.
/// Workers answer with made-up rows; like real ones they hold context and ask for what they miss.
struct Suite {
    struct Reply {
        let message: ClientReply
        let tensors: [Frame]
        let client: ClientAddress
    }

    struct Player {
        let name: String
        let stage: StageKind
        /// Empty: gone, nothing reaches it.
        var address: WorkerAddress
        /// Positions held by session: work beyond them is answered with NEED_CONTEXT.
        var held: [UInt64: Int] = [:]
        /// Request by session that came last.
        var owner: [UInt64: UInt64] = [:]
        /// Work received and not answered, in order.
        var inbox: [Work] = []
        /// Attempts that are no longer wanted.
        var cancelled: [UInt64: UInt32] = [:]
        /// Rows computed: (session, position) in order, and the depth of each.
        var computed: [(session: UInt64, position: Int)] = []
        var depths: [[Int]: [UInt8]] = [:]
    }

    static let golden: [String: Checkpoint] = ["early-1x", "online-1x"].reduce(into: [:]) {
        $0[$1] = try? Golden($1).checkpoint
    }

    var state: RouterState
    /// Workers have inboxes and hand rows on to each other.
    let handsOver: Bool
    /// What workers hand over is lost on the way.
    var losesHandOvers = false
    /// Items that came from the Router itself.
    private(set) var handedOut = 0
    let model: ModelConfiguration
    let fingerprint: String
    /// Nanoseconds.
    var now: UInt64 = 1_000_000_000
    var players: [String: Player] = [:]
    var replies: [Reply] = []
    var cancels: [(request: UInt64, to: WorkerAddress)] = []
    var releases: [(session: UInt64, drop: Bool)] = []
    var acknowledged: [WorkerAddress] = []
    var refused: [Anira_Worker_V1_Refused] = []
    var heartbeats: [WorkerAddress] = []
    var dismissed: [WorkerAddress] = []
    var ledger = LedgerContents()
    var reservations: [UInt64] = []

    /// checkpoint: a golden case. workers: one a stage, named like it, unless empty.
    init(
        _ checkpoint: String = "early-1x", chunk: Int = 64, window: Int = 4, ledger: LedgerContents = LedgerContents(),
        workers: [StageKind] = StageKind.allCases, handsOver: Bool = false,
        _ change: (inout RouterState.Configuration) -> Void = { _ in }
    ) {
        self.handsOver = handsOver
        let checkpoint = Suite.golden[checkpoint]!
        var configuration = RouterState.Configuration(checkpoint: checkpoint)
        configuration.chunk = chunk
        configuration.window = window
        change(&configuration)
        (model, fingerprint) = (configuration.model, configuration.fingerprint)
        state = RouterState(configuration, ledger: ledger)
        self.ledger = ledger
        for stage in workers { connect(stage.rawValue, stage) }
    }

    // MARK: - Events

    mutating func feed(_ event: RouterEvent) { perform(state.handle(event, now: now)) }

    mutating func flush() { perform(state.flush(now: now)) }

    mutating func pass(ms: UInt64) {
        now += ms * 1_000_000
        feed(.tick)
    }

    /// A new process of this name: it holds nothing, unless `keeping` what an earlier one stored.
    mutating func connect(
        _ name: String, _ stage: StageKind, incarnation: UInt64 = 1, credit: UInt32 = .max, keeping: Bool = false,
        _ change: (inout Anira_Worker_V1_Ready) -> Void = { _ in }
    ) {
        var player = Player(name: name, stage: stage, address: Array("\(name)#\(incarnation)".utf8))
        if keeping, let known = players[name] { (player.held, player.owner) = (known.held, known.owner) }
        players[name] = player
        var ready = Anira_Worker_V1_Ready.with {
            $0.stage = stage.rawValue
            $0.name = name
            $0.incarnation = incarnation
            $0.protocolVersion = workerProtocolVersion
            $0.fingerprint = fingerprint
            $0.creditBytes = credit
            $0.durability = "process"
            $0.pid = 100
            $0.inbox = handsOver ? "inproc://\(name)" : ""
        }
        change(&ready)
        feed(.ready(ready, from: player.address))
    }

    mutating func send(_ request: ClientRequest, from client: ClientAddress = .dealer) {
        let bytes: [UInt8] = (try? request.serializedBytes()) ?? []
        feed(.request(request, digest: bytes.reduce(7) { $0 &* 31 &+ UInt64($1) }, from: client))
    }

    mutating func generate(
        _ id: String, _ tokens: [Int32], new: Int32 = 1, session: String = "", from client: ClientAddress = .dealer,
        _ change: (inout ClientRequest) -> Void = { _ in }
    ) {
        send(.generate(id, tokens, new: new, session: session, change), from: client)
    }

    // MARK: - Workers

    /// The work that `name` holds, taken from it.
    mutating func take(_ name: String) -> [Work] {
        flush()
        defer { players[name]!.inbox.removeAll() }
        return players[name]!.inbox
    }

    /// Computes `work` and hands the outcomes over.
    mutating func answer(_ name: String, _ work: [Work]) { deliver(name, compute(name, work)) }

    mutating func compute(_ name: String, _ work: [Work]) -> [Outcome] {
        work.map { item in
            var outcome = players[name]!.compute(item, model)
            handOver(item.item, &outcome, players[name]!.stage)
            return outcome
        }
    }

    /// As workers do: rows with a way named go to the next worker at once.
    private mutating func handOver(_ item: Anira_Worker_V1_WorkItem, _ outcome: inout Outcome, _ stage: StageKind) {
        var next = item
        let onward = item.way
        let peer: Anira_Worker_V1_Peer
        switch (stage, outcome.item.outcome) {
        case (.decider, .decider(let result)):
            peer = onward.core
            next.core.depths = result.depths
            next.core.depth = item.decider.depth
            next.core.depth.distributions = item.decider.depth.distributions && result.depths.isEmpty
        case (.core, .core):
            peer = onward.coda
            next.coda = onward.codaWork
        case (.coda, .coda(let result)):
            let continuation = onward.continuation
            guard result.sampled, item.continuing > 0, !continuation.stopTokens.contains(result.token) else {
                return
            }
            peer = continuation.decider
            next.position += next.count
            next.count = 1
            next.continuing -= 1
            next.decider.tokens = [result.token]
            next.decider.depths = Data()
            next.decider.depth = continuation.depth
        default: return
        }
        guard !peer.inbox.isEmpty else { return }
        outcome.item.handedTo = peer.worker
        next.trusted = peer.trusted
        guard !losesHandOvers else { return }
        change(Array(peer.worker.utf8)) {
            if $0.cancelled[item.request].map({ item.attempt > $0 }) ?? true {
                $0.inbox.append(Work(next, tensor: outcome.tensor))
            }
        }
    }

    mutating func deliver(_ name: String, _ outcomes: [Outcome]) {
        feed(.results(outcomes, from: players[name]!.address))
    }

    /// Until nobody has work.
    mutating func run() {
        var moved = true
        while moved {
            moved = false
            for name in players.keys.sorted() {
                let work = take(name)
                if !work.isEmpty { answer(name, work) }
                moved = moved || !work.isEmpty
            }
        }
    }

    // MARK: - What was seen

    func replies(_ id: String, to client: ClientAddress? = nil) -> [ClientReply] {
        replies.filter { $0.message.id == id && (client == nil || $0.client == client) }.map(\.message)
    }

    /// completed, scored and error replies to `id`.
    func endings(_ id: String) -> [ClientReply] {
        replies(id).filter {
            switch $0.reply {
            case .completed, .scored, .error: true
            default: false
            }
        }
    }

    func ending(_ id: String) -> ClientReply { endings(id).last ?? ClientReply() }

    func streamed(_ id: String) -> [Anira_V1_Token] {
        replies(id).compactMap { if case .token(let token) = $0.reply { token } else { nil } }
    }

    /// Asks for the status.
    func status() -> Anira_V1_SuiteStatus {
        var copy = self
        copy.send(.with { $0.status = .init() }, from: ClientAddress(routingID: [99], isREQ: false, isJSON: false))
        return copy.replies.last!.message.status
    }

    var counters: Anira_V1_Counters { status().counters }

    private mutating func perform(_ actions: [RouterAction]) {
        for action in actions {
            switch action {
            case .reply(let message, let tensors, let client):
                replies.append(Reply(message: message, tensors: tensors, client: client))
            case .readyAck(_, let address): acknowledged.append(address)
            case .refuse(let message, _): refused.append(message)
            case .work(let work, let address):
                handedOut += work.count
                change(address) { $0.inbox += work }
            case .cancel(let request, let attempt, let address):
                cancels.append((request, address))
                change(address) {
                    $0.inbox.removeAll { $0.item.request == request && $0.item.attempt <= attempt }
                    $0.cancelled[request] = attempt
                }
            case .release(let session, let drop, let address):
                releases.append((session, drop))
                change(address) { if drop { $0.held[session] = nil } }
            case .heartbeat(let address): heartbeats.append(address)
            case .dismiss(let address): dismissed.append(address)
            case .end(let ending):
                if let answer = ending.answer { ledger.results.append(answer) }
                if let (name, record) = ending.session { ledger.sessions[name] = record }
                for (message, tensors, client) in ending.replies {
                    replies.append(Reply(message: message, tensors: tensors, client: client))
                }
            case .reserve(let end):
                reservations.append(end)
                ledger.nextSession = end
            case .owe(let drops): ledger.owedDrops = drops
            case .forgetResults(let number): ledger.results.removeAll { $0.number <= number }
            default: break
            }
        }
    }

    private mutating func change(_ address: WorkerAddress, _ body: (inout Player) -> Void) {
        for name in players.keys where players[name]!.address == address { body(&players[name]!) }
    }
}

extension Suite.Player {
    /// The outcome a stage would give: rows of zeros, a depth of position mod K + 1, the token (3 · position + 1) mod
    /// vocabulary.
    mutating func compute(_ work: Work, _ model: ModelConfiguration) -> Outcome {
        let item = work.item
        let (first, count) = (Int(item.position), Int(item.count))
        var result = Anira_Worker_V1_ResultItem.with {
            $0.request = item.request
            $0.attempt = item.attempt
            $0.position = item.position
            $0.count = item.count
        }
        if owner.updateValue(item.request, forKey: item.session) != item.request {
            held[item.session] = held[item.session].map { min($0, Int(item.trusted)) }
        }
        guard held[item.session] ?? 0 >= first else {
            result.needContext.from = UInt32(held[item.session] ?? 0)
            return Outcome(result)
        }
        held[item.session] = first + count
        computed += (first..<(first + count)).map { (item.session, $0) }
        let rows = Tensor(Frame([UInt8](repeating: 0, count: count * model.hiddenSize * 4)))
        let rule = item.work.map { if case .decider(let w) = $0 { w.depth } else { item.core.depth } } ?? .init()
        let own = (first..<(first + count)).map { position in
            rule.rule == .fixed ? UInt8(rule.value) : UInt8(position % model.maxDepth + 1)
        }
        switch stage {
        case .decider:
            let known = Array(item.decider.depths)
            result.decider.depths = Data(!known.isEmpty ? known : model.decider == .early ? own : [])
            if rule.distributions, model.decider == .early {
                result.decider.distributions = (0..<(count * model.maxDepth)).map { Float($0) }
            }
            return Outcome(result, tensor: rows)
        case .core:
            let depths = item.core.depths.isEmpty ? own : Array(item.core.depths)
            result.core.depths = Data(depths)
            if rule.distributions { result.core.distributions = depths.flatMap { (1...$0).map(Float.init) } }
            for (row, depth) in depths.enumerated() {
                self.depths[[Int(item.session), first + row], default: []].append(depth)
            }
            return Outcome(result, tensor: rows)
        case .coda:
            let last = first + count - 1
            result.coda.sampled = item.coda.sample
            result.coda.token = Int32((3 * last + 1) % model.vocabSize)
            result.coda.logprob = -Float(last)
            result.coda.logprobs = item.coda.targets.map { -Float($0) }
            result.coda.logits = item.coda.logits
            let logits = Tensor(Frame([UInt8](repeating: UInt8(first), count: count * model.vocabSize * 4)))
            return Outcome(result, tensor: item.coda.logits ? logits : nil)
        }
    }
}

extension Anira_Worker_V1_WorkItem {
    /// `onward`, decoded; empty where there is none.
    var way: Anira_Worker_V1_Onward { (try? Anira_Worker_V1_Onward(serializedBytes: onward)) ?? .init() }
}

extension ClientAddress {
    static let dealer = ClientAddress(routingID: [1], isREQ: false, isJSON: true)
    static let other = ClientAddress(routingID: [2], isREQ: false, isJSON: false)
    static let req = ClientAddress(routingID: [3], isREQ: true, isJSON: false)
}

extension ClientRequest {
    static func generate(
        _ id: String, _ tokens: [Int32], new: Int32 = 1, session: String = "",
        _ change: (inout ClientRequest) -> Void = { _ in }
    ) -> ClientRequest {
        var request = ClientRequest()
        request.id = id
        request.generate.tokens = tokens
        request.generate.maxNewTokens = new
        request.generate.session = session
        change(&request)
        return request
    }

    static func score(
        _ id: String, _ tokens: [Int32], _ change: (inout ClientRequest) -> Void = { _ in }
    ) -> ClientRequest {
        var request = ClientRequest()
        request.id = id
        request.score.tokens = tokens
        change(&request)
        return request
    }
}

/// Token ids 0, 1, 2, … inside every golden vocabulary.
func prompt(_ count: Int) -> [Int32] { (0..<Int32(count)).map { $0 % 30 } }
