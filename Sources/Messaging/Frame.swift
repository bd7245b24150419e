import CZeroMQ

/// One frame of a message. Its bytes are reference counted by libzmq and never change after it was filled, so a
/// frame is forwarded, kept for a retry and sent again without copying them.
public final class Frame: @unchecked Sendable {  // immutable after init; libzmq's count is atomic
    fileprivate let message: UnsafeMutablePointer<zmq_msg_t>

    /// An empty frame to receive into.
    init() {
        message = .allocate(capacity: 1)
        zmq_msg_init(message)
    }

    /// `count` bytes, filled by `fill`.
    public init(count: Int, _ fill: (UnsafeMutableRawBufferPointer) -> Void) {
        message = .allocate(capacity: 1)
        guard zmq_msg_init_size(message, count) == 0 else { fatalError("out of memory for a frame of \(count) bytes") }
        fill(UnsafeMutableRawBufferPointer(start: zmq_msg_data(message), count: count))
    }

    public convenience init(_ bytes: some Collection<UInt8>) {
        self.init(count: bytes.count) { $0.copyBytes(from: bytes) }
    }

    /// float32 values in native (little-endian) order.
    public convenience init(floats: UnsafeBufferPointer<Float>) {
        self.init(count: floats.count * 4) { $0.copyMemory(from: UnsafeRawBufferPointer(floats)) }
    }

    deinit {
        zmq_msg_close(message)
        message.deallocate()
    }

    public var count: Int { zmq_msg_size(message) }

    /// The bytes, valid during `body`.
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(start: zmq_msg_data(message), count: count))
    }

    public var bytes: [UInt8] { withBytes { Array($0) } }

    /// Receives one frame; false when none is waiting.
    func receive(from socket: UnsafeMutableRawPointer, flags: Int32) -> Bool {
        while zmq_msg_recv(message, socket, flags) < 0 {
            guard zmq_errno() == EINTR else { return false }
        }
        return true
    }

    var hasMore: Bool { zmq_msg_more(message) != 0 }

    /// Sends a reference to the bytes; the frame stays usable. Returns 0 or errno.
    func send(to socket: UnsafeMutableRawPointer, flags: Int32) -> Int32 {
        var copy = zmq_msg_t()
        zmq_msg_init(&copy)
        zmq_msg_copy(&copy, message)
        while zmq_msg_send(&copy, socket, flags) < 0 {
            let code = zmq_errno()
            if code == EINTR { continue }
            zmq_msg_close(&copy)
            return code
        }
        return 0
    }
}
