import Logging
import Messaging
import Proto

/// The worker's connections to the inboxes of others, opened when first needed. Confined to the compute thread.
final class Peers {
    private final class Connection {
        let socket: Socket

        init(_ context: Context, to inbox: String) throws {
            socket = try Socket(.push, context, waitsForPeer: true)
            try socket.connect(inbox)
        }
    }

    private let context: Context
    private let log: Logger
    private var connections: [String: Connection] = [:]

    init(_ context: Context, log: Logger) {
        self.context = context
        self.log = log
    }

    /// False when the peer takes nothing now: it is not connected yet, has gone, or its queue is full.
    func send(_ rows: [Work], to peer: Anira_Worker_V1_Peer) -> Bool {
        do {
            let connection = try connection(to: peer.inbox)
            return connection.socket.send(try workFrames(rows)) == .sent
        } catch {
            log.warning("cannot hand rows to \(peer.worker): \(error)")
            return false
        }
    }

    private func connection(to inbox: String) throws -> Connection {
        if let known = connections[inbox] { return known }
        // Inboxes change when workers start again; those that are gone must not pile up.
        if connections.count >= 64 { connections.removeAll() }
        let new = try Connection(context, to: inbox)
        connections[inbox] = new
        return new
    }

    /// Closes all connections.
    func close() { connections.removeAll() }
}
