import DequeModule
import Foundation
import KVStore
import Logging
import Messaging
import Model
import Proto
import SwiftProtobuf
import Synchronization

/// Where the Router listens and what it keeps.
public struct RouterOptions: Sendable {
    /// Clients connect here.
    public var endpoint = "tcp://127.0.0.1:5555"
    /// Workers connect here.
    public var workers: String
    /// Data folder; nil: sessions and answers are forgotten at exit.
    public var data: String?
    /// What the sessions and answers in it survive.
    public var durability = Durability.process
    /// Milliseconds that running requests get to finish at shut-down.
    public var graceMS = 10_000
    /// Chrome trace to write; nil: none.
    public var trace: String?
    /// Called once with the client endpoint when every stage first has a worker.
    public var onReady: @Sendable (String) -> Void = { _ in }

    public init(workers: String, data: String?) {
        self.workers = workers
        self.data = data
    }
}

/// The Router process: two sockets, one thread, and a `RouterState` that decides everything.
public final class RouterService: Sendable {
    private let options: RouterOptions
    private let context: Context
    private let log: Logger
    private let configuration: RouterState.Configuration
    private let ledger: Ledger?
    private let contents: LedgerContents
    private let wakeup = Wakeup()
    private let stops = Atomic(0)

    /// Checks the checkpoint's vocabulary and configuration and claims the data folder.
    public init(
        _ options: RouterOptions, configuration: RouterState.Configuration, context: Context, log: Logger
    ) throws {
        self.options = options
        var configuration = configuration
        configuration.firstNumber = UInt64(Date().timeIntervalSince1970 * Double(1 << 20))
        configuration.durability = options.data == nil ? "memory" : options.durability.rawValue
        self.configuration = configuration
        self.context = context
        self.log = log
        ledger = try options.data.map {
            try Ledger(data: $0, fingerprint: configuration.fingerprint, durability: options.durability)
        }
        contents = try ledger?.contents() ?? LedgerContents()
    }

    /// Ends `run` after running requests finished or the grace time passed; called again, at once. Callable from any thread.
    public func stop() {
        stops.add(1, ordering: .releasing)
        wakeup.signal()
    }

    /// Serves until `stop`, then terminates the context. The calling thread owns both sockets.
    public func run() throws {
        let locks = try [options.endpoint, options.workers].filter { $0.hasPrefix("ipc://") }.map {
            try OwnerLock(path: String($0.dropFirst(6)) + ".lock", what: "endpoint \($0)", instead: "one")
        }
        try serve()
        context.terminate()
        for endpoint in [options.endpoint, options.workers] { removeSocketFile(of: endpoint) }
        withExtendedLifetime(locks) {}  // a successor's files would be removed
    }

    private func serve() throws {
        var loop = try RouterLoop(
            options: options, state: RouterState(configuration, ledger: contents), ledger: ledger, context: context,
            log: log)
        try loop.run(wakeup: wakeup, stops: { stops.load(ordering: .acquiring) })
    }
}

/// The loop of the Router's thread: frames to events, actions to frames.
private struct RouterLoop: ~Copyable {
    private var clients: Socket
    private var workers: Socket
    private var state: RouterState
    private let options: RouterOptions
    private let ledger: Ledger?
    private let log: Logger
    private let tickNS: UInt64
    private let mostBytes: Int
    private var announced = false
    /// Actions that wait until the workers have been served.
    private var later: [RouterAction] = []
    /// What the ledger did not take, oldest first: tried again with each tick.
    private var unwritten: [Ending] = []
    private static let mostUnwritten = 1024
    /// Of a round, for reading clients' messages.
    private static let mostReadingNS: UInt64 = 5_000_000
    /// Why; until the next tick nothing else is tried.
    private var writeFailure: KVStoreError?
    private let trace: TraceFile?

    init(
        options: RouterOptions, state: RouterState, ledger: Ledger?, context: Context, log: Logger
    ) throws {
        let trace = try options.trace.map { try TraceFile(path: $0, log: log) }
        var clients = try Socket(.router, context)
        try clients.bind(options.endpoint)
        var workers = try Socket(.router, context)
        try workers.bind(options.workers)
        self.options = options
        self.state = state
        self.ledger = ledger
        self.log = log
        tickNS = UInt64(state.configuration.heartbeatMS) * 1_000_000
        mostBytes = RequestLimits.messageBytes(positions: state.configuration.model.maxPositionEmbeddings)
        log.info("clients on \(clients.endpoint), workers on \(workers.endpoint)")
        self.clients = clients
        self.workers = workers
        self.trace = trace
    }

    /// stops: how often it was told to stop.
    mutating func run(wakeup: Wakeup, stops: () -> Int) throws {
        var nextTick = monotonicNanoseconds() + tickNS
        var deadline: UInt64?
        var lastRound = monotonicNanoseconds()
        while true {
            let now = monotonicNanoseconds()
            let wait = nextTick > now ? Int((nextTick - now) / 1_000_000) + 1 : 0
            let ready = poll(workers, clients, wakeup, timeoutMS: wait)
            let round = monotonicNanoseconds()
            if round - lastRound > 4 * tickNS { feed(.stoodStill(round - lastRound)) }
            lastRound = round
            // Bounded rounds: neither side starves the other or the clock. Long prompts take long to read, and tokens wait.
            if ready.first { for _ in 0..<256 { guard takeWorkerMessage() else { break } } }
            let readBy = monotonicNanoseconds() + Self.mostReadingNS
            if ready.second { while takeClientMessage(), monotonicNanoseconds() < readBy {} }
            if monotonicNanoseconds() >= nextTick {
                feed(.tick)
                if !unwritten.isEmpty { writeEndings() }
                nextTick = monotonicNanoseconds() + tickNS
            }
            perform(state.flush(now: monotonicNanoseconds()))
            answerClients()
            announceOnce()
            let stops = stops()
            guard stops > 0 else { continue }
            if deadline == nil {
                deadline = monotonicNanoseconds() + UInt64(options.graceMS) * 1_000_000
                feed(.shutDown)
            }
            if stops > 1 || state.activeRequests == 0 || monotonicNanoseconds() > deadline! { break }
        }
        if state.activeRequests > 0 { log.warning("stopped before \(state.activeRequests) requests had finished") }
        feed(.abandon)
        answerClients()
        if !unwritten.isEmpty { writeEndings() }
        trace?.close()
        ledger?.close()
    }

    private mutating func announceOnce() {
        guard !announced, state.isReady else { return }
        announced = true
        options.onReady(clients.endpoint)
    }

    private mutating func feed(_ event: RouterEvent) {
        perform(state.handle(event, now: monotonicNanoseconds()))
    }

    private mutating func takeClientMessage() -> Bool {
        guard let frames = clients.receive() else { return false }
        let received = ClientCodec.decode(routingID: frames[0].bytes, frames.dropFirst(), mostBytes: mostBytes)
        switch received.request {
        case .success(let request): feed(.request(request, digest: received.digest, from: received.address))
        case .failure(let refusal): feed(.unreadable(refusal, id: received.id, from: received.address))
        }
        return true
    }

    private mutating func takeWorkerMessage() -> Bool {
        guard let frames = workers.receive() else { return false }
        let address = frames[0].bytes
        guard frames.count >= 3, frames[1].bytes == workerProtocolTag, frames[2].count == 1,
            let command = WorkerCommand(rawValue: frames[2].bytes[0])
        else {
            state.countMalformed()
            return true
        }
        do {
            let header = frames.count > 3 ? frames[3].bytes : []
            switch command {
            case .ready: feed(.ready(try .init(serializedBytes: header), from: address))
            case .heartbeat: feed(.heartbeat(try .init(serializedBytes: header)))
            case .drain: feed(.drain(from: address))
            case .bye: feed(.bye(from: address))
            case .result: feed(.results(try readOutcomes(header, frames.dropFirst(4)), from: address))
            case .readyAck, .refused, .work, .cancel, .release: state.countMalformed()
            }
        } catch {
            log.warning("ignored a damaged \(command) message from \(String(decoding: address, as: UTF8.self))")
            state.countMalformed()
        }
        return true
    }

    /// Workers first: the next token's work is on its way while the client is told of the last one.
    private mutating func perform(_ actions: [RouterAction]) {
        for action in actions {
            switch action {
            case .reply, .end, .forgetResults: later.append(action)
            default: attempt(action)
            }
        }
    }

    /// Ledger and replies, in the order decided.
    private mutating func answerClients() {
        while !later.isEmpty {
            let actions = later
            later.removeAll()
            for action in actions { attempt(action) }
        }
    }

    /// What a success promises has been written before it goes out; when that fails, the reply says so instead.
    private mutating func end(_ ending: Ending) {
        let isKept = ledger != nil && (ending.answer != nil || ending.session != nil)
        if isKept {
            unwritten.append(ending)
            unwritten[unwritten.count - 1].replies = []
            if writeFailure == nil { writeEndings() }
        }
        for (reply, tensors, client) in ending.replies {
            if isKept, let writeFailure, !isError(reply) {
                attempt(.reply(unkept(reply, ending, writeFailure), tensors: [], to: client))
            } else {
                attempt(.reply(reply, tensors: tensors, to: client))
            }
        }
    }

    private func isError(_ reply: ClientReply) -> Bool { if case .error = reply.reply { true } else { false } }

    private func unkept(_ reply: ClientReply, _ ending: Ending, _ failure: KVStoreError) -> ClientReply {
        .with {
            $0.id = reply.id
            $0.error.code = (failure.code == .full ? ErrorCode.storeFull : .internal).rawValue
            if let (name, record) = ending.session, record == nil {
                $0.error.message =
                    "session '\(name)' is dropped, but that could not be written: \(failure). Make room; until then a "
                    + "restart brings it back"
            } else {
                $0.error.message =
                    "the answer is there but could not be written: \(failure). Make room and ask for the result of "
                    + "'\(ending.answer?.id ?? reply.id)'"
            }
        }
    }

    /// Writes what is not written yet, or notes why that failed.
    private mutating func writeEndings() {
        do {
            try ledger?.put(unwritten)
            unwritten = []
            if writeFailure != nil { log.notice("sessions and answers can be written again") }
            writeFailure = nil
        } catch {
            if writeFailure?.description != "\(error)" { log.error("\(error)") }
            writeFailure =
                error as? KVStoreError
                ?? KVStoreError(
                    .system, "write sessions and answers (\(error)) to", path: "\(options.data ?? "")/router")
        }
        guard unwritten.count > Self.mostUnwritten else { return }
        log.error(
            "gave up writing \(unwritten.count - Self.mostUnwritten) endings, the oldest that could not be written")
        unwritten.removeFirst(unwritten.count - Self.mostUnwritten)
    }

    private mutating func attempt(_ action: RouterAction) {
        do {
            try perform(action)
        } catch {
            log.error("\(error)")
        }
    }

    private mutating func perform(_ action: RouterAction) throws {
        switch action {
        case .reply(let reply, let tensors, let client):
            let frames = [Frame(client.routingID)] + ClientCodec.encode(reply, tensors: tensors, to: client)
            switch clients.send(frames) {
            case .sent: break
            case .unroutable: feed(.clientLost(client, slow: false))
            case .wouldBlock: feed(.clientLost(client, slow: true))
            }
        case .work(let items, let address):
            send(try workFrames(items), to: address)
        case .readyAck(let message, let address): try send(.readyAck, message, to: address)
        case .refuse(let message, let address): try send(.refused, message, to: address)
        case .cancel(let request, let attempt, let address):
            let message = Anira_Worker_V1_Cancel.with {
                $0.request = request
                $0.attempt = attempt
            }
            try send(.cancel, message, to: address)
        case .release(let session, let drop, let address):
            let message = Anira_Worker_V1_Release.with {
                $0.session = session
                $0.drop = drop
            }
            if try !send(.release, message, to: address), drop { feed(.undroppable(session: session, address)) }
        case .heartbeat(let address): try send(.heartbeat, Anira_Worker_V1_Heartbeat(), to: address)
        case .dismiss(let address): send(workerFrames(.drain), to: address)
        case .end(let ending): end(ending)
        case .reserve(let end): try ledger?.reserve(sessionsBelow: end)
        case .owe(let drops): try ledger?.put(owedDrops: drops)
        case .forgetResults(let number): try ledger?.remove(resultsThrough: number)
        case .trace(let span): trace?.add(span)
        case .traceEnd(let request, let id, let start, let end):
            trace?.end(request: request, id: id, from: start, to: end)
        case .log(let level, let line): log.log(level: level, "\(line)")
        }
    }

    /// False: the worker is lost.
    @discardableResult
    private mutating func send(
        _ command: WorkerCommand, _ message: some SwiftProtobuf.Message, to address: WorkerAddress
    ) throws -> Bool {
        send(workerFrames(command) + [Frame(try message.serializedBytes() as [UInt8])], to: address)
    }

    @discardableResult
    private mutating func send(_ frames: [Frame], to address: WorkerAddress) -> Bool {
        // A refused worker may be gone already; a full queue means it does not take work: both are a lost worker.
        guard workers.send([Frame(address)] + frames) != .sent else { return true }
        feed(.unroutable(address))
        return false
    }
}
