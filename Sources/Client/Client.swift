import Messaging
import Proto
import Synchronization

/// Why a client call ended without an answer.
public enum ClientError: Error, Sendable, CustomStringConvertible {
    case noAnswer(endpoint: String, seconds: Double)
    /// It was accepted, or has begun.
    case noMore(seconds: Double)
    case damagedReply(String)
    /// The suite could not read a request so far as to tell its id.
    case unread(code: String, message: String)
    case interrupted

    public var description: String {
        switch self {
        case .noAnswer(let endpoint, let seconds):
            "no answer from \(endpoint) within \(seconds) s; is the suite running (anira up) and the endpoint right?"
        case .noMore(let seconds):
            "the request was taken, but nothing more came within \(seconds) s; 'anira status' shows what the suite does"
        case .damagedReply(let reason): "the suite sent a reply that cannot be read: \(reason)"
        case .unread(let code, let message): "\(code): \(message)"
        case .interrupted: "interrupted"
        }
    }
}

/// Ends a client's waiting, from any thread.
public final class Interruption: Sendable {
    fileprivate let wakeup = Wakeup()
    private let raised = Atomic(false)

    /// The client's `receive` throws `interrupted`, now or when it is next called.
    public func raise() {
        raised.store(true, ordering: .releasing)
        wakeup.signal()
    }

    fileprivate func take() -> Bool { raised.exchange(false, ordering: .acquiring) }
}

/// A streaming client of the suite: one DEALER socket, used by one thread.
///
/// Requests outlive their connection: those without an ending are sent again over the next one, under the same ids,
/// which never run twice (docs/protocol.md, "Ids").
public final class Client {
    private let socket: Socket
    private let connections: Connections
    public let interruption = Interruption()
    private var isConnected = false
    private var open: [String: OpenRequest] = [:]
    private var sent = 0
    public let endpoint: String

    public init(endpoint: String, context: Context) throws {
        var options = SocketOptions()
        options.lingerMS = 1000
        socket = try Socket(.dealer, context, options)
        connections = try socket.connections(context)
        self.endpoint = endpoint
        try socket.connect(endpoint)
    }

    /// Queues a request; its replies come through `receive`.
    public func send(_ request: ClientRequest) throws {
        let body: [UInt8] = try request.serializedBytes()
        let opened = OpenRequest(
            number: sent, body: Frame(body), endsAtOnce: request.isAnsweredAtOnce, runs: request.runs)
        try send(opened)
        open[request.id] = opened
        sent += 1
    }

    private func send(_ request: OpenRequest) throws {
        guard socket.send([request.body]) == .sent else { throw ClientError.noAnswer(endpoint: endpoint, seconds: 0) }
    }

    /// The next reply of any request, with its tensor frames; throws after `seconds` of silence. Beyond a lost
    /// connection tokens of a stream may be missing; the last reply has them all.
    public func receive(seconds: Double) throws -> (reply: ClientReply, tensors: [Frame]) {
        guard let found = try receiveIfAny(seconds: seconds) else {
            throw ClientError.noAnswer(endpoint: endpoint, seconds: seconds)
        }
        return found
    }

    /// The same; nil after `seconds` of silence.
    public func receiveIfAny(seconds: Double) throws -> (reply: ClientReply, tensors: [Frame])? {
        let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while true {
            if interruption.take() { throw ClientError.interrupted }
            while let isReady = connections.next() { if isReady { try resume() } }
            while let frames = socket.receive() {
                if let reply = try news(frames[0]) { return (reply, Array(frames.dropFirst())) }
            }
            let now = monotonicNanoseconds()
            guard now < deadline else { return nil }
            _ = poll(
                socket, connections.socket, interruption.wakeup,
                timeoutMS: min(1000, Int((deadline - now) / 1_000_000) + 1))
        }
    }

    /// Whatever the first connection's peer was told, the next one's is told again, in the same order.
    private func resume() throws {
        if isConnected { try open.values.sorted { $0.number < $1.number }.forEach(send) }
        isConnected = true
    }

    /// A reply, unless it repeats what is known.
    private func news(_ body: Frame) throws -> ClientReply? {
        let reply: ClientReply
        do {
            reply = try ClientReply(serializedBytes: body.bytes)
        } catch {
            throw ClientError.damagedReply("\(error)")
        }
        if reply.id.isEmpty, case .error(let error) = reply.reply {
            throw ClientError.unread(code: error.code, message: error.message)
        }
        guard open[reply.id]?.isNews(reply) == true else { return nil }
        if reply.isLast || open[reply.id]?.endsAtOnce == true { open[reply.id] = nil }
        return reply
    }

    /// Cancels every `generate` and `score` without an ending; waits for their endings so long at most.
    public func cancelOpen(seconds: Double) throws {
        guard isConnected else { return }
        for id in open.filter({ $0.value.runs }).keys {
            try send(
                .with {
                    $0.id = "\(id)-cancel"
                    $0.cancel.id = id
                })
        }
        let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while open.values.contains(where: \.runs) {
            let now = monotonicNanoseconds()
            guard now < deadline, try receiveIfAny(seconds: Double(deadline - now) / 1e9) != nil else {
                // Where nothing was taken there is nothing to cancel.
                guard open.values.contains(where: { $0.runs && $0.isAccepted }) else { return }
                throw ClientError.noMore(seconds: seconds)
            }
        }
    }

    /// Sends a request and hands over its replies until the last one, which it returns.
    public func run(
        _ request: ClientRequest, seconds: Double, onReply: (ClientReply) throws -> Void = { _ in }
    ) throws -> (reply: ClientReply, tensors: [Frame]) {
        try send(request)
        var answered = false
        while true {
            // The first reply comes at once, whatever is asked; silence means that nobody is there.
            let patience = answered ? seconds : min(seconds, 5)
            guard let received = try receiveIfAny(seconds: patience) else {
                throw answered
                    ? ClientError.noMore(seconds: seconds) : .noAnswer(endpoint: endpoint, seconds: patience)
            }
            answered = true
            guard received.reply.id == request.id else { continue }
            if received.reply.isLast || request.isAnsweredAtOnce { return received }
            try onReply(received.reply)
        }
    }
}

/// A request without an ending.
private struct OpenRequest {
    /// In the order of sending.
    let number: Int
    let body: Frame
    /// Whether `accepted` is the whole answer.
    let endsAtOnce: Bool
    /// Whether it can be cancelled.
    let runs: Bool
    private(set) var isAccepted = false
    private var tokens: Int32 = 0

    init(number: Int, body: Frame, endsAtOnce: Bool, runs: Bool) {
        (self.number, self.body, self.endsAtOnce, self.runs) = (number, body, endsAtOnce, runs)
    }

    /// Whether a reply says something that was not said over an earlier connection; notes it. A token that does not
    /// follow the last one says nothing either: those between are only in the last reply.
    mutating func isNews(_ reply: ClientReply) -> Bool {
        switch reply.reply {
        case .accepted:
            defer { isAccepted = true }
            return !isAccepted
        case .token(let token):
            guard token.index == tokens else { return false }
            tokens += 1
            return true
        default: return true
        }
    }
}

extension ClientRequest {
    /// Whether it takes the model's time, until it ends or is cancelled.
    fileprivate var runs: Bool {
        switch operation {
        case .generate, .score: true
        case .cancel, .dropSession, .result, .status, .models, nil: false
        }
    }

    /// Whether `accepted` is the whole answer.
    fileprivate var isAnsweredAtOnce: Bool {
        switch operation {
        case .cancel, .dropSession: true
        case .generate, .score, .result, .status, .models, nil: false
        }
    }
}

extension ClientReply {
    /// Whether this reply ends a `generate` or `score` (or answers one of the other operations).
    public var isLast: Bool {
        switch reply {
        case .accepted, .token: false
        case .completed, .scored, .error, .status, .models, nil: true
        }
    }
}
