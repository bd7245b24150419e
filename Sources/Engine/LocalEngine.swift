import CodaService
import DeciderService
import Foundation
import KVStore
import Messaging
import Model
import Proto
import RecurrentCoreService
import Router
import Worker

/// The suite in one process and one thread: the Router's state machine over the three stages, no sockets and no
/// store. Reference for tests, floor for measuring what the process split costs, and `--local` of the tools.
public final class LocalEngine {
    private var state: RouterState
    private let stages: [any Stage]
    private let inbox: Inbox
    private var replies: [String: [(reply: ClientReply, tensors: [Frame])]] = [:]
    private let client = ClientAddress(routingID: [0], isREQ: false, isJSON: false)

    /// Outcomes of one stage, posted inline by its step.
    private final class Inbox: @unchecked Sendable {  // the engine and its stages share one thread
        var outcomes: [[Outcome]] = [[], [], []]
    }

    /// residentMiB: cache budget of each stage. kv: how keys and values are held.
    public init(
        _ checkpoint: Checkpoint, kv: StoredType = .f32, residentMiB: Int = 1024, limits: RowLimits = RowLimits(),
        chunk: Int = 64
    ) throws {
        var configuration = RouterState.Configuration(checkpoint: checkpoint)
        configuration.chunk = chunk
        configuration.silenceMS = .max / 1_000_000
        state = RouterState(configuration)
        let inbox = Inbox()
        self.inbox = inbox
        func store(_ stage: StageKind) throws -> KVStore {
            var worker = WorkerConfiguration(stage: stage, name: stage.rawValue, router: "", data: nil)
            worker.residentMiB = residentMiB
            worker.kv = kv
            return try KVStore(worker.store(checkpoint))
        }
        func sink(_ stage: StageKind) -> OutcomeSink { { inbox.outcomes[stage.index].append($0) } }
        // Everything goes by way of the state machine: here that is a function call.
        let noPeers: HandOver = { _, _ in false }
        stages = [
            DeciderStage(
                try Prelude(checkpoint), store: try store(.decider), limits: limits, post: sink(.decider),
                handOver: noPeers),
            CoreStage(
                try RecurrentCore(checkpoint), store: try store(.core), limits: limits, post: sink(.core),
                handOver: noPeers),
            CodaStage(
                try Coda(checkpoint), store: try store(.coda), limits: limits, post: sink(.coda), handOver: noPeers),
        ]
        for kind in StageKind.allCases {
            let ready = Anira_Worker_V1_Ready.with {
                $0.stage = kind.rawValue
                $0.name = kind.rawValue
                $0.protocolVersion = workerProtocolVersion
                $0.fingerprint = checkpoint.fingerprint
                $0.creditBytes = .max
                $0.durability = "memory"
            }
            perform(state.handle(.ready(ready, from: Array(kind.rawValue.utf8)), now: 0))
        }
    }

    /// Starts a request; `step` moves it, `take` collects its replies.
    public func submit(_ request: ClientRequest) {
        perform(
            state.handle(
                .request(request, digest: UInt64(bitPattern: Int64(request.hashValue)), from: client),
                now: monotonicNanoseconds()))
    }

    /// One round: hands out work, steps every stage, takes results. False when nothing is left to do.
    public func step() -> Bool {
        perform(state.flush(now: monotonicNanoseconds()))
        var moved = false
        for kind in StageKind.allCases { moved = step(kind) || moved }
        return moved || state.activeRequests > 0
    }

    private func step(_ kind: StageKind) -> Bool {
        let moved = stages[kind.index].step()
        let outcomes = inbox.outcomes[kind.index]
        inbox.outcomes[kind.index] = []
        if !outcomes.isEmpty {
            perform(state.handle(.results(outcomes, from: Array(kind.rawValue.utf8)), now: monotonicNanoseconds()))
        }
        perform(state.flush(now: monotonicNanoseconds()))
        return moved
    }

    /// Replies so far to the request `id`, oldest first.
    public func take(_ id: String) -> [(reply: ClientReply, tensors: [Frame])] {
        replies.removeValue(forKey: id) ?? []
    }

    /// Runs `requests` together to their ends; returns each one's last reply with its tensors, in order.
    public func run(_ requests: [ClientRequest]) -> [(reply: ClientReply, tensors: [Frame])] {
        for request in requests { submit(request) }
        while state.activeRequests > 0 { _ = step() }
        return requests.map { take($0.id).last ?? (ClientReply(), []) }
    }

    private func perform(_ actions: [RouterAction]) {
        for action in actions {
            switch action {
            case .reply(let reply, let tensors, _): replies[reply.id, default: []].append((reply, tensors))
            case .end(let ending):
                for (reply, tensors, _) in ending.replies { replies[reply.id, default: []].append((reply, tensors)) }
            case .work(let items, let address): for item in items { stage(address).admit(item) }
            case .cancel(let request, let attempt, let address):
                stage(address).cancel(request: request, through: attempt)
            case .release(let session, let drop, let address): stage(address).release(session: session, drop: drop)
            case .readyAck, .refuse, .heartbeat, .dismiss, .forgetResults, .reserve, .owe, .trace, .traceEnd, .log:
                break
            }
        }
    }

    private func stage(_ address: WorkerAddress) -> any Stage {
        stages[StageKind(rawValue: String(decoding: address, as: UTF8.self))!.index]
    }
}
