import Foundation
import Logging
import Messaging
import Proto

/// Why a worker cannot go on.
public struct WorkerError: Error, Sendable, CustomStringConvertible {
    public let description: String
}

/// The link thread: owns the DEALER socket, registers, turns frames into orders and outcomes into frames, and
/// answers heartbeats with the compute loop's progress even while that computes.
struct WorkerLink: ~Copyable {
    private let socket: Socket
    private let mailbox: WorkerMailbox
    private let ready: Anira_Worker_V1_Ready
    private let log: Logger
    private var heartbeatMS = 250
    private var lastSent: UInt64 = 0
    private var lastHeard: UInt64 = 0
    private var registered = false
    private var lastBusy: (at: UInt64, ns: UInt64) = (0, 0)

    init(
        context: Context, endpoint: String, ready: Anira_Worker_V1_Ready, mailbox: WorkerMailbox, log: Logger
    ) throws {
        var options = SocketOptions()
        options.routingID = Array("\(ready.name)#\(ready.incarnation)".utf8)
        let socket = try Socket(.dealer, context, options)
        try socket.connect(endpoint)
        self.socket = socket
        self.mailbox = mailbox
        self.ready = ready
        self.log = log
    }

    /// Serves until `shouldStop`, then drains: what was accepted is finished and answered first.
    mutating func run(shouldStop: () -> Bool, computeEnded: () -> Bool) throws {
        var draining = false
        lastHeard = monotonicNanoseconds()
        while !computeEnded() {
            if !draining, shouldStop() {
                draining = true
                send(.drain, [])
                mailbox.stop()
            }
            if poll(socket, mailbox.wakeup, timeoutMS: draining ? 10 : heartbeatMS) {
                while let frames = socket.receive() { try take(frames) }
            }
            sendOutcomes()
            keepAlive()
        }
        sendOutcomes()
        send(.bye, [])
    }

    private mutating func keepAlive() {
        let now = monotonicNanoseconds()
        guard now - lastSent >= UInt64(heartbeatMS) * 1_000_000 else { return }
        if registered, now - lastHeard > UInt64(heartbeatMS) * 4 * 1_000_000 {
            log.warning("no sign of the Router, registering again")
            registered = false
        }
        lastSent = now
        do {
            if registered {
                send(.heartbeat, [Frame(try heartbeat(now).serializedBytes() as [UInt8])])
            } else {
                send(.ready, [Frame(try ready.serializedBytes() as [UInt8])])
            }
        } catch {
            log.error("cannot encode a message to the Router: \(error)")
        }
    }

    private mutating func heartbeat(_ now: UInt64) -> Anira_Worker_V1_Heartbeat {
        let state = mailbox.state
        var message = state.heartbeat
        let elapsed = now - lastBusy.at
        message.busy = elapsed > 0 ? min(1, Float(state.busyNS - lastBusy.ns) / Float(elapsed)) : 0
        lastBusy = (now, state.busyNS)
        return message
    }

    private func send(_ command: WorkerCommand, _ rest: [Frame]) {
        let frames = [Frame(workerProtocolTag), Frame([command.rawValue])] + rest
        let outcome = socket.send(frames)
        // IMMEDIATE queues nothing while the Router is away; it asks again for what it misses.
        if outcome != .sent, command == .result { log.warning("the Router takes no results now; it will ask again") }
    }

    private func sendOutcomes() {
        let outcomes = mailbox.takeOutcomes()
        guard !outcomes.isEmpty else { return }
        var batch = Anira_Worker_V1_ResultBatch()
        batch.items = outcomes.map(\.item)
        do {
            let header = Frame(try batch.serializedBytes() as [UInt8])
            send(.result, [header] + outcomes.compactMap(\.tensor))
        } catch {
            log.error("cannot encode results: \(error)")
        }
    }

    private mutating func take(_ frames: [Frame]) throws {
        lastHeard = monotonicNanoseconds()
        guard frames.count >= 2, frames[0].bytes == workerProtocolTag, frames[1].count == 1,
            let command = WorkerCommand(rawValue: frames[1].bytes[0])
        else {
            log.warning("ignored a message that is not of protocol \(workerProtocolVersion)")
            return
        }
        do {
            let header = frames.count > 2 ? frames[2].bytes : []
            switch command {
            case .readyAck:
                heartbeatMS = max(10, Int(try Anira_Worker_V1_ReadyAck(serializedBytes: header).heartbeatMs))
                if !registered { log.info("registered") }
                registered = true
            case .refused:
                let refused = try Anira_Worker_V1_Refused(serializedBytes: header)
                throw WorkerError(description: "the Router refused this worker: \(refused.reason)")
            case .work: try takeWork(try Anira_Worker_V1_WorkBatch(serializedBytes: header), frames.dropFirst(3))
            case .cancel:
                mailbox.submit(.cancel(request: try Anira_Worker_V1_Cancel(serializedBytes: header).request))
            case .release:
                let release = try Anira_Worker_V1_Release(serializedBytes: header)
                mailbox.submit(.release(session: release.session, drop: release.drop))
            case .heartbeat: break
            case .ready, .result, .drain, .bye: log.warning("ignored \(command) from the Router")
            }
        } catch let error as WorkerError {
            throw error
        } catch {
            log.warning("ignored a damaged \(command) message: \(error)")
        }
    }

    /// Pairs items with their frames: every core and coda item takes one.
    private func takeWork(_ batch: Anira_Worker_V1_WorkBatch, _ tensors: ArraySlice<Frame>) throws {
        var tensors = tensors
        var work: [Work] = []
        for item in batch.items {
            if case .decider = item.work {
                work.append(Work(item, tensor: nil))
            } else {
                guard let tensor = tensors.popFirst() else {
                    throw WorkerError(description: "a work message has fewer tensor frames than items")
                }
                work.append(Work(item, tensor: tensor))
            }
        }
        mailbox.submit(.work(work))
    }
}
