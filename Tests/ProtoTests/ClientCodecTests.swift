import Messaging
import Proto
import Router
import SwiftProtobuf
import TestKit
import Testing

@Suite struct ClientCodecTests {
    @Test func `an empty frame first makes the client a REQ, and its reply starts with one`() throws {
        let received = decode("", #"{"id":"r1","status":{}}"#)
        #expect(try received.request.get().id == "r1")
        #expect(received.address == ClientAddress(routingID: [7], isREQ: true, isJSON: true))
        let reply = ClientCodec.encode(error("r1"), tensors: [], to: received.address)
        #expect(reply.map(\.count).first == 0)
        #expect(reply.count == 2)
    }

    @Test func `a body alone makes the client a DEALER, and its reply starts with the body`() {
        let received = decode(#"{"id":"r1","status":{}}"#)
        #expect(received.address == ClientAddress(routingID: [7], isREQ: false, isJSON: true))
        #expect(ClientCodec.encode(error("r1"), tensors: [], to: received.address).count == 1)
    }

    @Test func `tensors follow the body`() {
        let tensor = Frame([1, 2, 3, 4])
        for isREQ in [false, true] {
            let client = ClientAddress(routingID: [7], isREQ: isREQ, isJSON: true)
            let frames = ClientCodec.encode(error("r1"), tensors: [tensor], to: client)
            #expect(frames.last?.bytes == [1, 2, 3, 4])
            #expect(frames.count == (isREQ ? 3 : 2))
        }
    }

    @Test(arguments: [[], [""], ["{}", "{}"], ["", "{}", "{}"], ["", ""]])
    func `any other number of frames is refused`(frames: [String]) {
        let received = ClientCodec.decode(routingID: [7], frames.map { Frame(Array($0.utf8)) }[...])
        #expect(refusal(received)?.message.hasPrefix("frames: ") == true)
        #expect(refusal(received)?.code == .invalidArgument)
    }

    @Test func `a first byte of { is JSON, any other protobuf`() throws {
        let request = ClientRequest.with {
            $0.id = "r1"
            $0.generate.tokens = [1, 12]
        }
        let json = decode(#"{"id":"r1","generate":{"tokens":[1,12]}}"#)
        let protobuf = ClientCodec.decode(routingID: [7], [Frame(try request.bytes())])
        #expect(json.address.isJSON && !protobuf.address.isJSON)
        #expect(try json.request.get() == request)
        #expect(try protobuf.request.get() == request)
    }

    @Test func `the reply is in the encoding of the request`() throws {
        let json = ClientCodec.encode(error("r1"), tensors: [], to: decode(#"{"status":{}}"#).address)
        #expect(json[0].bytes.first == UInt8(ascii: "{"))
        let client = ClientAddress(routingID: [7], isREQ: false, isJSON: false)
        let protobuf = ClientCodec.encode(error("r1"), tensors: [], to: client)
        #expect(try ClientReply(serializedBytes: protobuf[0].bytes) == error("r1"))
    }

    @Test(arguments: ["hello", "GET / HTTP/1.1\r\n\r\n", #" {"id":"r1","status":{}}"#, "[1,2]"])
    func `text that is no request is refused in JSON`(text: String) {
        let received = decode(text)
        #expect(refusal(received)?.message.hasPrefix("body: ") == true)
        #expect(received.address.isJSON)
    }

    @Test func `damaged bytes are refused in protobuf`() {
        let received = ClientCodec.decode(routingID: [7], [Frame([0x0A, 0x7F, 0x01])])
        #expect(refusal(received)?.message.hasPrefix("body: ") == true)
        #expect(!received.address.isJSON)
    }

    @Test(arguments: [
        (#"{"id":"r1","generate":{"max_new_tokens":"x"}}"#, "generate.max_new_tokens"),
        (#"{"id":"r1","generate":{"max_new_tokens":1.5}}"#, "generate.max_new_tokens"),
        (#"{"id":"r1","generate":{"max_new_tokens":2147483648}}"#, "generate.max_new_tokens"),
        (#"{"id":"r1","generate":{"tokens":[1,2,1.5]}}"#, "generate.tokens[2]"),
        (#"{"id":"r1","generate":{"tokens":["a",2]}}"#, "generate.tokens[0]"),
        (#"{"id":"r1","generate":{"tokens":5}}"#, "generate.tokens"),
        (#"{"id":"r1","generate":{"stream":"yes"}}"#, "generate.stream"),
        (#"{"id":"r1","generate":{"depth":{"policy":3}}}"#, "generate.depth.policy"),
        (#"{"id":"r1","generate":{"depth":{"values":[1,{}]}}}"#, "generate.depth.values[1]"),
        (#"{"id":"r1","generate":{"sampling":{"heat":1}}}"#, "generate.sampling.heat"),
        (#"{"id":"r1","generate":7}"#, "generate"),
        (#"{"id":"r1","score":{"include":{"logits":1}}}"#, "score.include.logits"),
        (#"{"id":"r1","cancel":{"id":7}}"#, "cancel.id"),
        (#"{"id":"r1","status":{},"deadline_ms":"soon"}"#, "deadline_ms"),
        (#"{"id":"r1","generat":{}}"#, "generat"),
        (#"{"id":"r1","status":{},"models":{}}"#, "operation"),
    ])
    func `a refusal names the innermost field that is wrong, under the request's id`(body: String, field: String) {
        let received = decode(body)
        #expect(refusal(received)?.code == .invalidArgument)
        #expect(refusal(received)?.message.split(separator: ":").first.map(String.init) == field)
        #expect(received.id == "r1")
    }

    @Test func `an id of the wrong type is named, and the answer has none`() {
        let received = decode(#"{"id":5,"status":{}}"#)
        #expect(refusal(received)?.message.hasPrefix("id: ") == true)
        #expect(received.id.isEmpty)
    }

    @Test func `a field name of any length makes a short refusal`() {
        let received = decode(#"{"id":"r1","\#(String(repeating: "x", count: 5000))":1}"#)
        #expect(refusal(received)?.message.utf8.count ?? .max < 200)
    }

    @Test(arguments: [
        #"{"id":"r1","generate":{"maxNewTokens":4}}"#, #"{"id":"r1","generate":{"max_new_tokens":"4"}}"#,
        #"{"id":"r1","generate":{"max_new_tokens":4.0,"session":null}}"#,
    ])
    func `other spellings of proto3 JSON are taken`(body: String) throws {
        #expect(try decode(body).request.get().generate.maxNewTokens == 4)
    }

    @Test func `an unknown field of protobuf is ignored`() throws {
        let body = try ClientRequest.with { $0.status = .init() }.bytes() + [0xF8, 0x07, 0x01]
        let received = ClientCodec.decode(routingID: [7], [Frame(body)])
        #expect(try received.request.get().operation == .status(.init()))
    }

    @Test func `the digest tells bodies apart byte by byte`() {
        let body = #"{"id":"r1","status":{}}"#
        #expect(decode(body).digest == decode("", body).digest)
        #expect(decode(body).digest != decode(body + " ").digest)
    }

    @Test func `JSON shows the empty lists of completed and scored`() throws {
        let completed = try sent(ClientReply.with { $0.completed.text = "" })["completed"]
        for list in ["tokens", "depths", "prompt_depths"] { #expect(completed?[list] == .array([])) }
        let scored = try sent(ClientReply.with { $0.scored.depths = [1] })["scored"]
        #expect(scored?["logprobs"] == .array([]))
        #expect(scored?["depths"] == .array([.number(1)]))
    }

    @Test func `JSON shows a list once, empty or not`() throws {
        let reply = ClientReply.with {
            $0.id = #"a","completed":{"#
            $0.completed.depths = [2]
        }
        #expect(try sent(reply)["id"] == .string(reply.id))
        #expect(try sent(reply)["completed"]?["depths"] == .array([.number(2)]))
        #expect(try sent(reply)["completed"]?["tokens"] == .array([]))
    }

    @Test func `JSON shows the zeros of a token`() throws {
        let reply = ClientReply.with {
            $0.token.index = 0
            $0.token.token = 0
            $0.token.text = ""
        }
        let token = try sent(reply)["token"]
        #expect(token == .object(["index": .number(0), "token": .number(0), "text": .string("")]))
    }

    @Test func `exit distributions are a list of lists`() throws {
        let reply = ClientReply.with {
            $0.scored.logprobs = [-1]
            $0.scored.exitDistributions = [.init(), .with { $0.values = [.with { $0.numberValue = 0.25 }] }]
        }
        let lists = try sent(reply)["scored"]?["exit_distributions"]
        #expect(lists == .array([.array([]), .array([.number(0.25)])]))
    }

    @Test func `whatever the bytes are, they become a request or a refusal`() {
        var generator = SplitMix(state: 1)
        let whole = Array(#"{"id":"r1","generate":{"tokens":[1,2],"depth":{"policy":"cdf"}}}"#.utf8)
        for round in 0..<2000 {
            let length = Int.random(in: 0..<64, using: &generator)
            var body = round % 2 == 0 ? whole : (0..<length).map { _ in .random(in: 0...255, using: &generator) }
            for _ in 0..<3 where !body.isEmpty {
                body[.random(in: 0..<body.count, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            let received = ClientCodec.decode(routingID: [7], [Frame(body)])
            #expect(refusal(received)?.message.isEmpty != true, "\(body)")
        }
    }
}

extension ClientCodecTests {
    private func decode(_ frames: String...) -> ClientCodec.Received {
        ClientCodec.decode(routingID: [7], frames.map { Frame(Array($0.utf8)) }[...])
    }

    private func refusal(_ received: ClientCodec.Received) -> Refusal? {
        guard case .failure(let refusal) = received.request else { return nil }
        return refusal
    }

    private func error(_ id: String) -> ClientReply {
        .with {
            $0.id = id
            $0.error.code = ErrorCode.internal.rawValue
        }
    }

    private func sent(_ reply: ClientReply) throws -> JSON {
        let client = ClientAddress(routingID: [7], isREQ: false, isJSON: true)
        return try JSON(String(decoding: ClientCodec.encode(reply, tensors: [], to: client)[0].bytes, as: UTF8.self))
    }
}
