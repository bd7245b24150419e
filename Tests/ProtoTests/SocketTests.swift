import Foundation
import Messaging
import Testing

@Suite("Sockets")
struct SocketTests {
    /// With libzmq's heartbeats (4.3.4) the process ended: the next one was written to a connection that had failed while its
    /// queue here was full.
    @Test("A peer that has sent more than is read, and is gone, harms nobody")
    func departedFlood() throws {
        var options = SocketOptions()
        options.highWaterMark = 100
        let context = Context()
        var reader = try Socket(.router, context, options)
        try reader.bind("tcp://127.0.0.1:*")
        do {
            let elsewhere = Context()
            (options.highWaterMark, options.lingerMS) = (20_000, 100)
            let sender = try Socket(.dealer, elsewhere, options)
            try sender.connect(reader.endpoint)
            for _ in 0..<20_000 { #expect(sender.send([Frame([UInt8](repeating: 1, count: 1000))]) == .sent) }
            let hasCome = poll(reader, Wakeup(), timeoutMS: 10_000)
            #expect(hasCome)
            usleep(300_000)
        }
        usleep(3_500_000)  // more than two of those heartbeats
        let other = try Socket(.dealer, context)
        try other.connect(reader.endpoint)
        #expect(other.send([Frame([2])]) == .sent)
        var seen: Set<[UInt8]> = []
        let end = monotonicNanoseconds() + 10_000_000_000
        while !seen.contains([2]), monotonicNanoseconds() < end {
            if poll(reader, Wakeup(), timeoutMS: 100), let frames = reader.receive() { seen.insert(frames[1].bytes) }
        }
        #expect(seen.map(\.count).sorted() == [1, 1000])
    }
}
