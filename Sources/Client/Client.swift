import Messaging
import Proto

/// Why a client call ended without an answer.
public enum ClientError: Error, Sendable, CustomStringConvertible {
    case noAnswer(endpoint: String, seconds: Double)
    /// It was accepted, or has begun.
    case noMore(seconds: Double)
    case damagedReply(String)

    public var description: String {
        switch self {
        case .noAnswer(let endpoint, let seconds):
            "no answer from \(endpoint) within \(seconds) s; is the suite running (anira up) and the endpoint right?"
        case .noMore(let seconds):
            "the request was taken, but nothing more came within \(seconds) s; 'anira status' shows what the suite does"
        case .damagedReply(let reason): "the suite sent a reply that cannot be read: \(reason)"
        }
    }
}

/// A streaming client of the suite: one DEALER socket, used by one thread.
public struct Client: ~Copyable {
    private let socket: Socket
    private let wakeup = Wakeup()
    public let endpoint: String

    public init(endpoint: String, context: Context) throws {
        var options = SocketOptions()
        options.lingerMS = 1000
        let socket = try Socket(.dealer, context, options, waitsForPeer: false)
        try socket.connect(endpoint)
        self.socket = socket
        self.endpoint = endpoint
    }

    /// Queues a request; its replies come through `receive`.
    public func send(_ request: ClientRequest) throws {
        let body: [UInt8] = try request.serializedBytes()
        guard socket.send([Frame(body)]) == .sent else { throw ClientError.noAnswer(endpoint: endpoint, seconds: 0) }
    }

    /// The next reply of any request, with its tensor frames; throws after `seconds` of silence.
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
            if let frames = socket.receive() {
                do {
                    return (try ClientReply(serializedBytes: frames[0].bytes), Array(frames.dropFirst()))
                } catch {
                    throw ClientError.damagedReply("\(error)")
                }
            }
            let now = monotonicNanoseconds()
            guard now < deadline else { return nil }
            _ = poll(socket, wakeup, timeoutMS: min(1000, Int((deadline - now) / 1_000_000) + 1))
        }
    }

    /// Sends a request and hands over its replies until the last one, which it returns.
    public func run(
        _ request: ClientRequest, seconds: Double, onReply: (ClientReply) -> Void = { _ in }
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
            onReply(received.reply)
        }
    }
}

extension ClientRequest {
    /// Whether `accepted` is the whole answer.
    var isAnsweredAtOnce: Bool {
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
