import Foundation
import Logging
import Messaging
import Proto
import Synchronization

/// What the compute thread last said of itself, for the heartbeats.
final class Pulse: Sendable {
    struct State: Sendable {
        var heartbeat = Anira_Worker_V1_Heartbeat()
        /// Nanoseconds spent computing since start.
        var busyNS: UInt64 = 0
        /// Whether the Router has accepted the worker.
        var registered = false
    }

    private let state = Mutex(State())

    var current: State { state.withLock { $0 } }
    func update(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }
}

/// The heartbeat thread: its own small connection to the Router, so that a worker shows life, and how far its
/// compute loop is, also in the middle of a long step.
struct Heart: ~Copyable {
    private let socket: Socket
    private let pulse: Pulse
    private let stop: Wakeup
    private let log: Logger
    private var last: (at: UInt64, busyNS: UInt64) = (monotonicNanoseconds(), 0)

    init(
        context: Context, endpoint: String, name: String, incarnation: UInt64, pulse: Pulse, stop: Wakeup, log: Logger
    ) throws {
        var options = SocketOptions()
        options.routingID = Array("\(name)#\(incarnation)/heart".utf8)
        let socket = try Socket(.dealer, context, options, waitsForPeer: true)
        try socket.connect(endpoint)
        self.socket = socket
        self.pulse = pulse
        self.stop = stop
        self.log = log
    }

    /// Beats every `intervalMS` until `ended`.
    mutating func run(intervalMS: Int, ended: () -> Bool) {
        while !ended() {
            _ = poll(socket, stop, timeoutMS: intervalMS)
            while socket.receive() != nil {}  // nothing is expected here
            let state = pulse.current
            guard state.registered else { continue }
            do {
                let header = Frame(try beat(state).serializedBytes() as [UInt8])
                _ = socket.send(workerFrames(.heartbeat) + [header])
            } catch {
                log.error("cannot encode a heartbeat: \(error)")
            }
        }
    }

    private mutating func beat(_ state: Pulse.State) -> Anira_Worker_V1_Heartbeat {
        let now = monotonicNanoseconds()
        var message = state.heartbeat
        message.busy = now > last.at ? min(1, Float(state.busyNS - last.busyNS) / Float(now - last.at)) : 0
        last = (now, state.busyNS)
        return message
    }
}
