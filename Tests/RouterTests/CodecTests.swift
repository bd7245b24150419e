import Foundation
import Messaging
import Proto
import Router
import Testing

@Suite("Client frames: JSON or protobuf, DEALER or REQ")
struct CodecTests {
    private func decode(_ frames: [[UInt8]]) -> ClientCodec.Received {
        ClientCodec.decode(routingID: [7], frames.map { Frame($0) }[...])
    }

    private func refusal(_ frames: [[UInt8]]) -> String {
        if case .failure(let refusal) = decode(frames).request { refusal.message } else { "" }
    }

    @Test("The shape and encoding of a request are those of its reply", arguments: [true, false], [true, false])
    func shapes(_ isREQ: Bool, _ isJSON: Bool) throws {
        let request = ClientRequest.generate("r", [1, 2])
        let body: [UInt8] = try isJSON ? Array(request.jsonUTF8Data()) : request.serializedBytes()
        let received = decode(isREQ ? [[], body] : [body])
        #expect(try received.request.get() == request)
        #expect(received.address == ClientAddress(routingID: [7], isREQ: isREQ, isJSON: isJSON))
        let reply = ClientReply.with { $0.id = "r" }
        let frames = ClientCodec.encode(reply, tensors: [Frame([9])], to: received.address).map(\.bytes)
        #expect(frames.count == (isREQ ? 3 : 2))
        #expect(frames.first == (isREQ ? [] : frames[0]) && frames.last == [9])
        let answer = frames[isREQ ? 1 : 0]
        #expect(try (isJSON ? ClientReply(jsonUTF8Bytes: answer) : ClientReply(serializedBytes: answer)) == reply)
    }

    @Test(
        "Unreadable JSON is refused naming the innermost field",
        arguments: [
            (#"{"id":"r","generate":{"tokens":["x"]}}"#, "generate.tokens[0]:"),
            (#"{"id":"r","generate":{"tokens":[1],"colour":1}}"#, "generate.colour:"),
            (#"{"id":"r","generate":{"tokens":[1],"depth":{"min":"deep"}}}"#, "generate.depth.min:"),
            (#"{"id":"r","generate":{"tokens":[1,4294967296]}}"#, "generate.tokens[1]:"),
            (#"{"id":"r","genrate":{}}"#, "genrate:"), (#"{"id":"r","deadline_ms":1.5,"status":{}}"#, "deadline_ms:"),
            (#"{"id":"r""#, "body:"),
        ])
    func json(_ text: String, _ field: String) {
        #expect(refusal([Array(text.utf8)]).hasPrefix(field), "\(refusal([Array(text.utf8)]))")
        if field != "body:" { #expect(decode([Array(text.utf8)]).id == "r") }
    }

    @Test(
        "Frames that are no request become a refusal",
        arguments: [[], [[]], [[], []], [[1], [2]], [[255, 255, 255]]])
    func frames(_ frames: [[UInt8]]) {
        #expect(!refusal(frames).isEmpty)
    }

    @Test("Text that is not JSON is answered in JSON, which its sender can read")
    func text() { #expect(decode([Array("hello".utf8)]).address.isJSON) }

    /// A list of a million tokens of which the last was none held the Router up for half a minute.
    @Test(
        "What is wrong in a long list is named, in a very long one not looked for, and beyond the model's size not read"
    )
    func long() {
        func body(_ count: Int) -> [UInt8] {
            Array((#"{"id":"r","generate":{"tokens":["# + String(repeating: "1,", count: count) + #""x"]}}"#).utf8)
        }
        #expect(refusal([body(20_000)]).hasPrefix("generate.tokens[20000]:"))
        let long = decode([body(100_000)])
        #expect(long.id == "r")
        #expect(refusal([body(100_000)]).hasPrefix("body: a field is unknown"))
        let received = ClientCodec.decode(routingID: [7], [Frame(body(100_000))], mostBytes: 1 << 17)
        guard case .failure(let refusal) = received.request else { return #expect(Bool(false)) }
        #expect(refusal.code == .contextTooLong)
    }

    @Test("Random bytes never trap")
    func random() {
        var state: UInt64 = 1
        func next() -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33)
        }
        let good = Array(#"{"id":"r","generate":{"tokens":[1,2],"depth":{"policy":"fixed","value":2}}}"#.utf8)
        for _ in 0..<2000 {
            var bytes = next() % 2 == 0 ? good : (0..<(next() % 40)).map { _ in UInt8(next() % 256) }
            for _ in 0..<(next() % 3) where !bytes.isEmpty { bytes[next() % bytes.count] = UInt8(next() % 256) }
            _ = decode([bytes])
        }
    }

    @Test("An unreadable message is answered under its id and counted")
    func unreadable() {
        let received = decode([Array(#"{"id":"r","genrate":{}}"#.utf8)])
        guard case .failure(let refusal) = received.request else { return #expect(Bool(false)) }
        var suite = Suite()
        suite.feed(.unreadable(refusal, id: received.id, from: received.address))
        #expect(suite.ending("r").error.code == "INVALID_ARGUMENT")
        #expect(suite.counters.rejected == 1)
    }

    @Test("Empty lists that a client indexes are written out, names are those of the protocol")
    func lists() throws {
        var reply = ClientReply()
        reply.completed.finishReason = "length"
        let frames = ClientCodec.encode(reply, tensors: [], to: .dealer)
        let object = try JSONSerialization.jsonObject(with: Data(frames[0].bytes)) as? [String: Any]
        let completed = try #require(object?["completed"] as? [String: Any])
        for list in ["tokens", "depths", "prompt_depths"] { #expect((completed[list] as? [Any])?.isEmpty == true) }
        #expect(completed["finish_reason"] as? String == "length")
    }

    @Test("Equal bodies have equal digests, others differ")
    func digests() {
        let bodies = [#"{"id":"r"}"#, #"{"id":"r"}"#, #"{"id":"s"}"#].map { decode([Array($0.utf8)]).digest }
        #expect(bodies[0] == bodies[1] && bodies[0] != bodies[2])
    }
}
