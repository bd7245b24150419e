import Messaging
import Proto
import Router
import SwiftProtobuf
import Testing

/// The document says what the code does: its vectors, examples and tables against codec and generated messages.
@Suite struct VectorTests {
    static let messages: [String: any (SwiftProtobuf.Message & Equatable).Type] = [
        "ClientRequest": ClientRequest.self, "ClientReply": ClientReply.self,
        "Ready": Anira_Worker_V1_Ready.self, "ReadyAck": Anira_Worker_V1_ReadyAck.self,
        "Refused": Anira_Worker_V1_Refused.self, "WorkBatch": Anira_Worker_V1_WorkBatch.self,
        "ResultBatch": Anira_Worker_V1_ResultBatch.self, "Cancel": Anira_Worker_V1_Cancel.self,
        "Release": Anira_Worker_V1_Release.self, "Heartbeat": Anira_Worker_V1_Heartbeat.self,
        "Onward": Anira_Worker_V1_Onward.self,
    ]
    static let commands: [String: Set<WorkerCommand>] = [
        "Ready": [.ready], "ReadyAck": [.readyAck], "Refused": [.refused], "WorkBatch": [.work],
        "ResultBatch": [.result], "Cancel": [.cancel], "Release": [.release], "Heartbeat": [.heartbeat],
        "none": [.drain, .bye],
    ]
    static let clientMessages = ["ClientRequest", "ClientReply"]
    static let jsonClient = ClientAddress(routingID: [1], isREQ: false, isJSON: true)

    @Test func `the document has its vectors, each under a name of its own`() {
        let all = [Vector.Form.vector, .message, .refused].map(Document.vectors)
        #expect(all[0].count >= 24)
        #expect(all[1].count >= 12)
        #expect(all[2].count >= 12)
        #expect(Set(all.joined().map(\.name)).count == all.joined().count)
        #expect(Document.strayLines.isEmpty)
    }

    @Test(arguments: Document.vectors(.vector))
    func `a vector decodes to its JSON and encodes to its bytes`(vector: Vector) throws {
        #expect(vector.frames.count == 1)
        try check(vector.kind, vector.frames[0], vector.json)
    }

    @Test(arguments: Document.vectors(.vector).filter { $0.kind == "ClientReply" })
    func `a client that speaks JSON gets a reply as the document shows it`(vector: Vector) throws {
        let reply = try ClientReply(serializedBytes: vector.frames[0])
        #expect(try sentJSON(reply) == JSON(vector.json))
    }

    @Test(arguments: Document.vectors(.message).filter { $0.kind == "ClientRequest" })
    func `a client's whole message is read`(vector: Vector) throws {
        let received = ClientCodec.decode(routingID: [1], vector.frames.map { Frame($0) }[...])
        let request = try received.request.get()
        let body = try #require(vector.frames.last)
        #expect(received.address.isREQ == (vector.frames.count == 2))
        #expect(received.address.isJSON == (body.first == UInt8(ascii: "{")))
        #expect(try request.json() == JSON(vector.json))
        if !received.address.isJSON { #expect(try request.bytes() == body) }
    }

    @Test(arguments: Document.vectors(.message).filter { $0.kind == "ClientReply" })
    func `a reply's whole message is what the Router sends`(vector: Vector) throws {
        let isREQ = vector.frames[0].isEmpty
        let rest = vector.frames.dropFirst(isREQ ? 1 : 0)
        let reply = try ClientReply(jsonString: vector.json)
        let client = ClientAddress(routingID: [1], isREQ: isREQ, isJSON: false)
        let sent = ClientCodec.encode(reply, tensors: rest.dropFirst().map { Frame($0) }, to: client)
        #expect(sent.map(\.bytes) == vector.frames)
        let logits = reply.scored.hasLogits ? Int(reply.scored.logits.shape.reduce(1, *)) * 4 : 0
        #expect(rest.dropFirst().joined().count == logits)
    }

    @Test(arguments: Document.vectors(.message).filter { !clientMessages.contains($0.kind) })
    func `a worker's whole message is read`(vector: Vector) throws {
        let command = try #require(readCommand(vector.frames))
        #expect(Self.commands[vector.kind]?.contains(command) == true)
        guard vector.kind != "none" else {
            #expect(vector.frames.count == 2)
            return
        }
        try check(vector.kind, vector.frames[2], vector.json)
        #expect(try vector.frames.dropFirst(3).map(\.count) == tensorSizes(vector.kind, vector.frames[2]))
    }

    @Test(arguments: Document.vectors(.refused).filter { $0.kind == "Client" })
    func `a damaged client message is refused in the document's words`(vector: Vector) throws {
        let received = ClientCodec.decode(routingID: [1], vector.frames.map { Frame($0) }[...])
        guard case .failure(let refusal) = received.request else {
            Issue.record("it was accepted")
            return
        }
        var reply = ClientReply()
        reply.id = received.id
        reply.error.code = refusal.code.rawValue
        reply.error.message = refusal.message
        #expect(try sentJSON(reply) == JSON(vector.json))
    }

    @Test(arguments: Document.vectors(.refused).filter { $0.kind == "Worker" })
    func `a message that is not of the worker protocol is refused`(vector: Vector) {
        #expect(readCommand(vector.frames) == nil)
    }

    @Test(arguments: Document.vectors(.refused).filter { !["Client", "Worker"].contains($0.kind) })
    func `a damaged worker header is refused`(vector: Vector) throws {
        let type = try #require(Self.messages[vector.kind])
        #expect(throws: (any Error).self) { _ = try type.init(serializedBytes: vector.frames[0]) }
    }

    @Test(arguments: Document.examples)
    func `an example of the text is a valid message`(example: String) throws {
        let operations = ["generate", "score", "cancel", "result", "drop_session", "status", "models"]
        let json = try JSON(example)
        if let request = try? ClientRequest(jsonString: example), request.operation != nil {
            #expect(operations.contains { json[$0] != nil })
            #expect(try request.json() == json)
        } else {
            let reply = try ClientReply(jsonString: example)
            #expect(reply.reply != nil)
            #expect(try sentJSON(reply) == json)
        }
    }

    @Test func `every operation has an example of its request and of a reply`() throws {
        let requests = Document.examples.compactMap { try? ClientRequest(jsonString: $0) }
            .filter { $0.operation != nil }
        for operation in ["generate", "score", "cancel", "result", "drop_session", "status", "models"] {
            let asked = try requests.filter { try $0.json()[operation] != nil }
            let replies = Document.examples.compactMap { try? ClientReply(jsonString: $0) }.filter { $0.reply != nil }
            #expect(!asked.isEmpty, "\(operation)")
            #expect(replies.contains { reply in asked.contains { $0.id == reply.id } }, "\(operation)")
        }
    }

    @Test func `the table of commands is the code's`() {
        let rows = Document.text.split(separator: "\n").filter { $0.hasPrefix("| 0x") }
        let bytes = rows.compactMap { UInt8($0.dropFirst(4).prefix(2), radix: 16) }
        #expect(bytes == WorkerCommand.allCases.map(\.rawValue))
    }

    @Test(arguments: [
        ErrorCode.invalidArgument, .contextTooLong, .overloaded, .deadlineExceeded, .cancelled, .notFound, .unavailable,
        .storeFull, .unsupportedVersion, .internal,
    ])
    func `every error code is in the table`(code: ErrorCode) {
        #expect(Document.text.contains("\n| `\(code.rawValue)` | "))
    }

    @Test func `the table of socket options has the defaults`() {
        let options = SocketOptions()
        #expect(Document.text.contains("| `ZMQ_SNDHWM`, `ZMQ_RCVHWM` | \(options.highWaterMark) messages"))
        #expect(Document.text.contains("| `ZMQ_LINGER` | \(options.lingerMS) ms"))
        #expect(Document.text.contains("| `ZMQ_MAXMSGSIZE` | \(options.maxFrameBytes >> 20) MiB"))
    }
}

// MARK: - What the tests compare with

extension VectorTests {
    /// Bytes and JSON are the same message, and each gives the other.
    private func check(_ kind: String, _ bytes: [UInt8], _ json: String) throws {
        func check<M: SwiftProtobuf.Message & Equatable>(_ type: M.Type) throws {
            let message = try M(serializedBytes: bytes)
            #expect(try message == M(jsonString: json))
            #expect(try message.bytes() == bytes)
            // The codec puts empty lists back; a test of its own looks at replies.
            if kind != "ClientReply" { #expect(try message.json() == JSON(json)) }
        }
        guard let type = Self.messages[kind] else {
            Issue.record("no message is named \(kind)")
            return
        }
        try check(type)
    }

    /// The JSON that a client gets.
    private func sentJSON(_ reply: ClientReply) throws -> JSON {
        let frames = ClientCodec.encode(reply, tensors: [], to: Self.jsonClient)
        return try JSON(String(decoding: frames[0].bytes, as: UTF8.self))
    }

    /// The check that Router and workers make before they look at a header.
    private func readCommand(_ frames: [[UInt8]]) -> WorkerCommand? {
        guard frames.count >= 2, frames[0] == workerProtocolTag, frames[1].count == 1 else { return nil }
        return WorkerCommand(rawValue: frames[1][0])
    }

    /// Bytes of the tensor frames a header announces, with hidden 2 and a vocabulary of 4.
    private func tensorSizes(_ kind: String, _ header: [UInt8]) throws -> [Int] {
        switch kind {
        case "WorkBatch":
            return try Anira_Worker_V1_WorkBatch(serializedBytes: header).items.compactMap { item in
                if case .decider = item.work { nil } else { Int(item.count) * 2 * 4 }
            }
        case "ResultBatch":
            return try Anira_Worker_V1_ResultBatch(serializedBytes: header).items.compactMap { item in
                switch item.outcome {
                case .decider, .core: Int(item.count) * 2 * 4
                case .coda(let coda): coda.logits ? Int(item.count) * 4 * 4 : nil
                case .needContext, .failure, nil: nil
                }
            }
        default: return []
        }
    }
}
