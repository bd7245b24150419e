import CZeroMQ
import Foundation

/// Wakes a thread that waits in `poll`, from any other thread.
public final class Wakeup: Sendable {
    let descriptor: Int32

    public init() {
        descriptor = anira_eventfd()
        precondition(descriptor >= 0, "out of file descriptors")
    }

    deinit { close(descriptor) }

    public func signal() {
        var one: UInt64 = 1
        // A full counter (EAGAIN) means that the thread is already going to wake.
        _ = write(descriptor, &one, 8)
    }

    /// Forgets the signals so far.
    public func clear() {
        var value: UInt64 = 0
        _ = read(descriptor, &value, 8)
    }
}

/// Waits until a socket has a message, `wakeup` was signalled or `timeoutMS` passed (-1: without limit).
public func poll(
    _ first: borrowing Socket, _ second: borrowing Socket, _ wakeup: Wakeup, timeoutMS: Int
) -> (first: Bool, second: Bool) {
    var items = [
        zmq_pollitem_t(socket: first.handle, fd: 0, events: Int16(ZMQ_POLLIN), revents: 0),
        zmq_pollitem_t(socket: second.handle, fd: 0, events: Int16(ZMQ_POLLIN), revents: 0),
        zmq_pollitem_t(socket: nil, fd: wakeup.descriptor, events: Int16(ZMQ_POLLIN), revents: 0),
    ]
    zmq_poll(&items, 3, timeoutMS)
    if items[2].revents != 0 { wakeup.clear() }
    return (items[0].revents != 0, items[1].revents != 0)
}

/// Waits until the socket has a message, `wakeup` was signalled or `timeoutMS` passed (-1: without limit).
public func poll(_ socket: borrowing Socket, _ wakeup: Wakeup, timeoutMS: Int) -> Bool {
    var items = [
        zmq_pollitem_t(socket: socket.handle, fd: 0, events: Int16(ZMQ_POLLIN), revents: 0),
        zmq_pollitem_t(socket: nil, fd: wakeup.descriptor, events: Int16(ZMQ_POLLIN), revents: 0),
    ]
    zmq_poll(&items, 2, timeoutMS)
    if items[1].revents != 0 { wakeup.clear() }
    return items[0].revents != 0
}

/// The machine's monotonic clock, shared by all processes on it.
public func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
