import CZeroMQ
import Foundation
import Synchronization

/// A ZeroMQ context: one per process (tests make their own). Its sockets keep it; without them it ends.
public final class Context: @unchecked Sendable {  // libzmq contexts are thread safe
    fileprivate let handle: UnsafeMutableRawPointer
    private let isTerminated = Atomic(false)

    public init() {
        guard let handle = zmq_ctx_new() else { fatalError("libzmq cannot make a context") }
        self.handle = handle
    }

    /// Waits until what closed sockets still have to send is gone (LINGER bounds it) and their ipc files are
    /// removed. Call after the last socket is closed; no socket can be opened afterwards.
    public func terminate() {
        if !isTerminated.exchange(true, ordering: .relaxed) { zmq_ctx_term(handle) }
    }

    deinit { terminate() }
}

/// What became of a message handed to a socket.
public enum SendOutcome: Sendable, Equatable {
    case sent
    /// The peer's queue is full now.
    case wouldBlock
    /// No such peer (ROUTER sockets only).
    case unroutable
}

/// Options that every socket of the suite sets before it binds or connects (docs/protocol.md, "Socket rules").
public struct SocketOptions: Sendable {
    /// Messages queued per peer; never 0, which would mean without bound.
    public var highWaterMark: Int32 = 4096
    /// Milliseconds that close may spend delivering what is queued.
    public var lingerMS: Int32 = 500
    /// Largest frame accepted; a peer that sends a larger one is disconnected.
    public var maxFrameBytes: Int64 = 64 << 20
    public var routingID: [UInt8] = []

    public init() {}
}

/// Removes the file of an `ipc` endpoint that was bound: libzmq leaves it.
public func removeSocketFile(of endpoint: String) {
    guard endpoint.hasPrefix("ipc://") else { return }
    let path = String(endpoint.dropFirst(6))
    if unlink(path) != 0, errno != ENOENT { perror(path) }
}

/// A ZeroMQ socket. Owned by one thread from init to deinit, which closes it.
public struct Socket: ~Copyable {
    public enum Kind: Sendable {
        case router, dealer, push, pull, pair

        var type: Int32 {
            switch self {
            case .router: ZMQ_ROUTER
            case .dealer: ZMQ_DEALER
            case .push: ZMQ_PUSH
            case .pull: ZMQ_PULL
            case .pair: ZMQ_PAIR
            }
        }
    }

    let handle: UnsafeMutableRawPointer
    private let context: Context
    /// The endpoint after bind, with the port the system chose.
    public private(set) var endpoint = ""

    /// waitsForPeer: refuses to queue while its peer is away. Not for a socket that receives: libzmq (4.3.4) drops what it
    /// has not read when its connection breaks, and ends the process where that is in the middle of a message.
    public init(
        _ kind: Kind, _ context: Context, _ options: SocketOptions = SocketOptions(), waitsForPeer: Bool = false
    ) throws {
        guard let handle = zmq_socket(context.handle, kind.type) else {
            throw MessagingError("open a socket")
        }
        self.handle = handle
        self.context = context
        set(ZMQ_SNDHWM, options.highWaterMark)
        set(ZMQ_RCVHWM, options.highWaterMark)
        set(ZMQ_LINGER, options.lingerMS)
        set(ZMQ_MAXMSGSIZE, options.maxFrameBytes)
        // A machine that is gone is the kernel's to notice: libzmq's own heartbeats (4.3.4) end the process when one is due
        // on a connection that broke while much of it was unread.
        set(ZMQ_TCP_KEEPALIVE, Int32(1))
        set(ZMQ_TCP_KEEPALIVE_IDLE, Int32(2))
        set(ZMQ_TCP_KEEPALIVE_INTVL, Int32(1))
        set(ZMQ_TCP_KEEPALIVE_CNT, Int32(4))
        if kind == .router {
            set(ZMQ_ROUTER_MANDATORY, Int32(1))
            // A peer that comes back before its old connection is gone would be ignored for good.
            set(ZMQ_ROUTER_HANDOVER, Int32(1))
        } else {
            set(ZMQ_IMMEDIATE, Int32(waitsForPeer ? 1 : 0))
            set(ZMQ_RECONNECT_IVL, Int32(50))
            set(ZMQ_RECONNECT_IVL_MAX, Int32(1000))
            // The same where something is being sent. Not of a ROUTER: a client may take its time to read.
            set(ZMQ_TCP_MAXRT, Int32(6000))
        }
        if !options.routingID.isEmpty {
            _ = options.routingID.withUnsafeBytes { zmq_setsockopt(handle, ZMQ_ROUTING_ID, $0.baseAddress, $0.count) }
        }
    }

    deinit { zmq_close(handle) }

    private func set<T>(_ option: Int32, _ value: T) {
        let result = withUnsafeBytes(of: value) { zmq_setsockopt(handle, option, $0.baseAddress, $0.count) }
        precondition(result == 0, "libzmq refused option \(option)")
    }

    public mutating func bind(_ endpoint: String) throws {
        guard zmq_bind(handle, endpoint) == 0 else {
            let advice =
                switch zmq_errno() {
                case EADDRINUSE: "stop the other process or choose another endpoint"
                case ENODEV: "give an IPv4 address of this machine, the name of an interface, or *"
                default: ""
                }
            throw MessagingError("bind", endpoint, advice: advice)
        }
        var name = [CChar](repeating: 0, count: 256)
        var size = name.count
        zmq_getsockopt(handle, ZMQ_LAST_ENDPOINT, &name, &size)
        self.endpoint = String(decoding: name.prefix(while: { $0 != 0 }).map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    public func connect(_ endpoint: String) throws {
        guard zmq_connect(handle, endpoint) == 0 else { throw MessagingError("connect to", endpoint) }
    }

    /// What becomes of this socket's connections. Ask before `connect`, and let it live as long as this one.
    public func connections(_ context: Context) throws -> Connections {
        let name = "inproc://connections-\(UInt(bitPattern: handle))"
        guard zmq_socket_monitor(handle, name, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) == 0 else {
            throw MessagingError("watch connections of", name)
        }
        let watch = try Socket(.pair, context)
        try watch.connect(name)
        return Connections(socket: watch)
    }

    /// The next whole message, or nil when none is waiting.
    public func receive() -> [Frame]? {
        var frames: [Frame] = []
        repeat {
            let frame = Frame()
            guard frame.receive(from: handle, flags: ZMQ_DONTWAIT) else { return nil }
            frames.append(frame)
        } while frames[frames.count - 1].hasMore
        return frames
    }

    /// Sends a whole message or nothing: libzmq decides on the first frame.
    public func send(_ frames: [Frame]) -> SendOutcome {
        for (index, frame) in frames.enumerated() {
            let more = index + 1 < frames.count ? ZMQ_SNDMORE : 0
            switch frame.send(to: handle, flags: ZMQ_DONTWAIT | more) {
            case 0: continue
            case EHOSTUNREACH: return .unroutable
            default: return .wouldBlock
            }
        }
        return .sent
    }
}

/// The changes of a socket's connections, in order.
public struct Connections: ~Copyable {
    /// Has a message when there is a change.
    public let socket: Socket

    /// True: a connection is ready; false: one was lost. nil: no further change yet.
    public func next() -> Bool? {
        while let frames = socket.receive() {
            let event = frames[0].withBytes { $0.count >= 2 ? Int32($0.loadUnaligned(as: UInt16.self)) : 0 }
            if event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED { return true }
            if event == ZMQ_EVENT_DISCONNECTED { return false }
        }
        return nil
    }
}
