import Foundation
import Kernels
import Logging
import Messaging
import Proto

/// Why a worker cannot go on.
public struct WorkerError: Error, Sendable, CustomStringConvertible {
    public let description: String
}

/// The compute thread: owns the worker's sockets, its stage and its store. One round takes what the Router and other
/// workers sent, steps the stage once, and sends what is committed; no other thread is between a message and its
/// computation.
struct WorkerLoop: ~Copyable {
    private let socket: Socket
    private let connections: Connections
    /// Whether the Router is there, as far as is known: nothing is queued for an absent one.
    private var isConnected = false
    /// Where other workers hand rows over.
    private let inbox: Socket
    private let peers: Peers
    private let routingID: String
    private let router: String
    private var cancelled = Cancelled()
    private var ways = Ways()
    /// Results that the Router did not take yet.
    private var unsent: [Outcome] = []
    private let stage: any Stage
    private let outbox: Outbox
    private let pulse: Pulse
    private var ready: Anira_Worker_V1_Ready
    private let log: Logger
    private var heartbeatMS = 250
    private var lastReady: UInt64 = 0
    private var lastHeard = monotonicNanoseconds()
    private var lastHousekeeping = monotonicNanoseconds()
    private var registered = false
    /// Whether the Router has said that nothing more will come.
    private var dismissed = false
    /// When it leaves even though the Router has not said that it may; 0: not draining.
    private var leavesAt: UInt64 = 0
    /// When to say that no Router answers; 0: it was said, or one did.
    private var complaint = monotonicNanoseconds() + 5_000_000_000
    /// What answers is known not to speak the workers' protocol.
    private var knownStranger = false
    private var progress: UInt64 = 0
    private var busyNS: UInt64 = 0
    private var lastFigures: UInt64 = 0

    init(
        context: Context, configuration: WorkerConfiguration, ready: Anira_Worker_V1_Ready, stage: any Stage,
        peers: Peers, outbox: Outbox, pulse: Pulse, log: Logger
    ) throws {
        routingID = "\(ready.name)#\(ready.incarnation)"
        var options = SocketOptions()
        options.routingID = Array(routingID.utf8)
        let socket = try Socket(.dealer, context, options)
        let connections = try socket.connections(context)
        try socket.connect(configuration.router)
        var inbox = try Socket(.pull, context)
        var ready = ready
        if let endpoint = configuration.inbox {
            try inbox.bind(endpoint)
            ready.inbox = configuration.inboxAddress ?? inbox.endpoint
        }
        router = configuration.router
        self.socket = socket
        self.connections = connections
        self.inbox = inbox
        self.peers = peers
        self.stage = stage
        self.outbox = outbox
        self.pulse = pulse
        self.ready = ready
        self.log = log
    }

    /// Serves until `shouldStop`, then drains: what was accepted is finished and answered first, and a Router that is there
    /// has given its sessions to other workers.
    mutating func run(shouldStop: () -> Bool) throws {
        var idle = true
        while true {
            if idle { anira_take_processors(0) }
            let waiting = poll(socket, inbox, outbox.wakeup, timeoutMS: idle ? (leavesAt > 0 ? 1 : heartbeatMS) : 0)
            anira_take_processors(1)
            if waiting.first { while let frames = socket.receive() { try take(frames) } }
            if waiting.second { while let frames = inbox.receive() { takeHandedOver(frames) } }
            keepRegistered()  // before a step, after which what the Router sent meanwhile is still unread
            let moved = step()
            idle = !moved || stage.pending == 0
            sendOutcomes()
            guard shouldStop() else { continue }
            if leavesAt == 0 {
                send(.drain, [])
                leavesAt = monotonicNanoseconds() + 10_000_000_000
            }
            let mayLeave = dismissed || !isConnected || !registered || monotonicNanoseconds() > leavesAt
            if mayLeave, idle, stage.pending == 0, !stage.store.isCommitting { break }
        }
        sendOutcomes()
        send(.bye, [])
        stage.store.close()
        anira_take_processors(0)
    }

    private mutating func step() -> Bool {
        let start = monotonicNanoseconds()
        progress += 1
        let sinceHousekeeping = start - lastHousekeeping
        if sinceHousekeeping > 10_000_000_000 || sinceHousekeeping > 1_000_000_000 && stage.store.hasGrown {
            report(computing: true, now: start)  // it may take long, and results wait for it
            stage.store.housekeeping()
            lastHousekeeping = start
        }
        let waiting = stage.pending > 0
        report(computing: waiting, now: start)
        let moved = waiting && stage.step()
        if moved { busyNS += monotonicNanoseconds() - start }
        if !moved { report(computing: false, now: start) }
        return moved
    }

    private mutating func report(computing: Bool, now: UInt64) {
        // What is being committed is owed too: a worker that reports nothing owes nothing.
        let (progress, busyNS, queued) = (
            progress, busyNS, stage.pending + unsent.count + (stage.store.isCommitting ? 1 : 0)
        )
        // Steps are frequent and heartbeats are not: what costs something is read at their pace.
        let isDue = now - lastFigures > UInt64(heartbeatMS) * 500_000
        if isDue { lastFigures = now }
        let figures = isDue ? stage.figures : nil
        let kv = isDue ? stage.store.statistics() : nil
        pulse.update { state in
            state.busyNS = busyNS
            state.registered = registered
            state.heartbeat.name = ready.name
            state.heartbeat.incarnation = ready.incarnation
            state.heartbeat.progress = progress
            state.heartbeat.computing = computing
            state.heartbeat.queued = UInt32(queued)
            if let figures {
                state.heartbeat.steps = Float(figures.steps)
                state.heartbeat.rows = Float(figures.rows)
                state.heartbeat.tokens = Float(figures.tokens)
                state.heartbeat.depthHistogram = figures.depthHistogram.map { UInt32(clamping: $0) }
            }
            if let kv {
                state.heartbeat.residentMib = Float(kv.residentBytes) / 1_048_576
                state.heartbeat.budgetMib = Float(kv.budgetBytes) / 1_048_576
                state.heartbeat.residentSessions = UInt32(kv.residentSessions)
                state.heartbeat.mapUsed = Float(kv.mapUsedRatio)
                state.heartbeat.commits = Float(kv.commits)
                state.heartbeat.evictions = Float(kv.evictions)
                state.heartbeat.reloads = Float(kv.reloads)
            }
        }
    }

    private mutating func keepRegistered() {
        while let isReady = connections.next() { isConnected = isReady }
        let now = monotonicNanoseconds()
        if registered, now - lastHeard > UInt64(heartbeatMS) * 8 * 1_000_000 {
            log.warning("no sign of the Router, registering again")
            registered = false
        }
        if complaint > 0, now > complaint {
            complaint = 0
            log.warning("no Router answers at \(router); waiting for one")
        }
        guard !registered, now - lastReady >= UInt64(heartbeatMS) * 4 * 1_000_000 else { return }
        do {
            // While the Router is away nothing is queued: try again soon.
            if send(.ready, [Frame(try ready.serializedBytes() as [UInt8])]) == .sent { lastReady = now }
        } catch {
            log.error("cannot encode the registration: \(error)")
        }
    }

    @discardableResult
    private func send(_ command: WorkerCommand, _ rest: [Frame]) -> SendOutcome {
        isConnected ? socket.send(workerFrames(command) + rest) : .wouldBlock
    }

    private mutating func sendOutcomes() {
        let outcomes = unsent + outbox.take()
        guard !outcomes.isEmpty else { return }
        unsent = []
        do {
            if try !isConnected || socket.send(resultFrames(outcomes)) != .sent {
                log.info("the Router takes no results now")
                unsent = outcomes
            }
        } catch {
            log.error("cannot encode results: \(error)")
        }
    }

    private mutating func take(_ frames: [Frame]) throws {
        lastHeard = monotonicNanoseconds()
        guard frames.count >= 2, frames[0].bytes == workerProtocolTag, frames[1].count == 1,
            let command = WorkerCommand(rawValue: frames[1].bytes[0])
        else {
            if !knownStranger {
                log.warning(
                    "what answers at \(router) does not speak worker protocol \(workerProtocolVersion): give --connect the Router's --workers endpoint, not the clients'"
                )
            }
            (knownStranger, complaint) = (true, 0)
            return
        }
        do {
            let header = frames.count > 2 ? frames[2].bytes : []
            switch command {
            case .readyAck:
                heartbeatMS = max(10, Int(try Anira_Worker_V1_ReadyAck(serializedBytes: header).heartbeatMs))
                if !registered { log.info("registered") }
                registered = true
                if leavesAt > 0 { send(.drain, []) }  // to a Router that was away when it was told
                (knownStranger, complaint) = (false, 0)
            case .refused:
                let refused = try Anira_Worker_V1_Refused(serializedBytes: header)
                throw WorkerError(description: "the Router refused this worker: \(refused.reason)")
            case .work: try takeWork(Anira_Worker_V1_WorkBatch(serializedBytes: header), frames.dropFirst(3))
            case .cancel:
                let cancel = try Anira_Worker_V1_Cancel(serializedBytes: header)
                cancelled.insert(cancel.request, through: cancel.attempt)
                stage.cancel(request: cancel.request, through: cancel.attempt)
            case .release:
                let release = try Anira_Worker_V1_Release(serializedBytes: header)
                stage.release(session: release.session, drop: release.drop)
            case .heartbeat: break
            case .drain: dismissed = true
            case .ready, .result, .bye: log.warning("ignored \(command) from the Router")
            }
        } catch let error as WorkerError {
            throw error
        } catch {
            log.warning("ignored a damaged \(command) message: \(error)")
        }
    }

    /// Work from another worker. What was meant for an earlier process of this name is not this one's: the Router
    /// knows, and hands it out again.
    private mutating func takeHandedOver(_ frames: [Frame]) {
        guard frames.count >= 3, frames[0].bytes == workerProtocolTag,
            frames[1].bytes == [WorkerCommand.work.rawValue]
        else {
            log.warning("ignored a message that is not of protocol \(workerProtocolVersion)")
            return
        }
        do {
            let batch = try Anira_Worker_V1_WorkBatch(serializedBytes: frames[2].bytes)
            guard batch.items.allSatisfy({ $0.addressee == routingID }) else {
                log.info("ignored work for another worker")
                return
            }
            try takeWork(batch, frames.dropFirst(3))
        } catch {
            log.warning("ignored a damaged work message: \(error)")
        }
    }

    private mutating func takeWork(_ batch: Anira_Worker_V1_WorkBatch, _ tensors: ArraySlice<Frame>) throws {
        for var work in try readWork(batch, tensors, taken: monotonicNanoseconds())
        where !cancelled.contains(work.item.request, attempt: work.item.attempt) {
            do {
                work.onward = try ways.onward(work.item)
                stage.admit(work)
            } catch {
                outbox.post(Admission.failure(of: work, .internal, "malformed work: its way onward: \(error)"))
            }
        }
    }
}
