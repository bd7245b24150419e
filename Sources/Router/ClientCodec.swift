import Foundation
import Messaging
import Proto
import SwiftProtobuf

/// Reads and writes the client API's frames (docs/protocol.md, "Client API").
public enum ClientCodec {
    /// A message from a client, after its routing id.
    public struct Received: Sendable {
        public var address: ClientAddress
        /// The request, or why it cannot be read.
        public var request: Result<ClientRequest, Refusal>
        /// The id to answer under when the request cannot be read.
        public var id: String
        public var digest: UInt64
    }

    /// Never throws and never traps: whatever the bytes are, they become a request or a refusal. A body of more than
    /// `mostBytes` is not read.
    public static func decode(
        routingID: [UInt8], _ frames: ArraySlice<Frame>, mostBytes: Int = .max
    ) -> Received {
        var frames = frames
        let isREQ = frames.first.map { $0.count == 0 } ?? false
        if isREQ { frames.removeFirst() }
        let body = frames.first?.bytes ?? []
        var address = ClientAddress(routingID: routingID, isREQ: isREQ, isJSON: body.first == UInt8(ascii: "{"))
        guard frames.count == 1, !body.isEmpty else {
            let found = (isREQ ? "[empty] and " : "") + (body.isEmpty ? "an empty body" : "\(frames.count) frames")
            let refusal = Refusal.invalid("frames", "expected [empty]? [body], found \(found)")
            return Received(address: address, request: .failure(refusal), id: "", digest: 0)
        }
        guard body.count <= mostBytes else {
            let refusal = Refusal(
                .contextTooLong, "body: \(body.count) bytes; a request to this model has at most \(mostBytes)")
            return Received(address: address, request: .failure(refusal), id: "", digest: 0)
        }
        let read = address.isJSON ? json(body) : protobuf(body)
        if case .failure = read.request, looksLikeText(body) { address.isJSON = true }
        return Received(address: address, request: read.request, id: read.id, digest: digest(body))
    }

    private static func protobuf(_ body: [UInt8]) -> (request: Result<ClientRequest, Refusal>, id: String) {
        do {
            let request = try ClientRequest(serializedBytes: body)
            return (.success(request), request.id)
        } catch {
            return (.failure(.invalid("body", "not JSON (no '{' first) and not a valid anira.v1.ClientRequest")), "")
        }
    }

    private static func json(_ body: [UInt8]) -> (request: Result<ClientRequest, Refusal>, id: String) {
        do {
            let request = try ClientRequest(jsonUTF8Bytes: body)
            return (.success(request), request.id)
        } catch {
            return explain(body)
        }
    }

    /// Bytes up to which the field of a JSON body that does not decode is looked for, which takes several times as long as
    /// reading it.
    private static let mostDiagnosed = 64 << 10

    /// Why a JSON body is no request, and the id to say so under.
    private static func explain(_ body: [UInt8]) -> (request: Result<ClientRequest, Refusal>, id: String) {
        let notJSON = Refusal.invalid("body", "not valid JSON")
        do {
            guard let object = try JSONSerialization.jsonObject(with: Data(body)) as? [String: Any] else {
                return (.failure(notJSON), "")
            }
            let id = (object["id"] as? String).map { String($0.prefix(64)) } ?? ""
            guard body.count <= mostDiagnosed else {
                let reason = "a field is unknown, or a value of the wrong type or range; up to 64 KiB it would be named"
                return (.failure(.invalid("body", reason)), id)
            }
            return (.failure(diagnose(object)), id)
        } catch {
            return (.failure(notJSON), "")
        }
    }

    /// Names the innermost field that does not decode, by decoding each one alone.
    private static func diagnose(_ object: [String: Any]) -> Refusal {
        func fails(_ value: [String: Any]) -> Bool {
            do {
                _ = try ClientRequest(jsonUTF8Bytes: JSONSerialization.data(withJSONObject: value))
                return false
            } catch {
                return true
            }
        }
        func search(_ value: Any, path: String, wrap: (Any) -> [String: Any]) -> String? {
            guard fails(wrap(value)) else { return nil }
            if let fields = value as? [String: Any], !fails(wrap([String: Any]())) {
                for (key, inner) in fields.sorted(by: { $0.key < $1.key }) {
                    let found = search(inner, path: path.isEmpty ? key : "\(path).\(key)") { wrap([key: $0]) }
                    if let found { return found }
                }
            }
            if let elements = value as? [Any], !fails(wrap([Any]())) {
                return "\(path)[\(firstFailing(elements[...]) { fails(wrap(Array($0))) })]"
            }
            return path
        }
        let path = search(object, path: "") { $0 as? [String: Any] ?? [:] } ?? ""
        if path.isEmpty { return .invalid("operation", "give exactly one of \(operations)") }
        return .invalid(String(path.prefix(100)), "unknown field, or a value of the wrong type or range")
    }

    /// Index of the first of some elements that does not decode, by halving: that costs as much as decoding all of them.
    private static func firstFailing(_ elements: ArraySlice<Any>, fails: (ArraySlice<Any>) -> Bool) -> Int {
        guard elements.count > 1 else { return elements.startIndex }
        let middle = (elements.startIndex + elements.endIndex) / 2
        let first = elements[..<middle]
        return firstFailing(fails(first) ? first : elements[middle...], fails: fails)
    }

    static let operations = "generate, score, cancel, result, drop_session, status, models"

    private static func looksLikeText(_ body: [UInt8]) -> Bool {
        body.first != 0x0A && body.allSatisfy { $0 >= 0x20 && $0 < 0x7F || $0 == 0x09 || $0 == 0x0A || $0 == 0x0D }
    }

    /// FNV-1a of the body: equal ids with other content are told apart. The body holds the id.
    private static func digest(_ body: [UInt8]) -> UInt64 {
        body.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }

    /// The frames of a reply after the routing id.
    public static func encode(_ reply: ClientReply, tensors: [Frame], to address: ClientAddress) -> [Frame] {
        let body: [UInt8]
        do {
            body = try address.isJSON ? json(reply) : reply.serializedBytes()
        } catch {
            // Only unencodable text can fail here; the client still gets exactly one answer.
            body = Array(#"{"error":{"code":"INTERNAL","message":"the reply could not be encoded"}}"#.utf8)
        }
        return (address.isREQ ? [Frame([])] : []) + [Frame(body)] + tensors
    }

    /// proto3 JSON leaves empty lists out; those that a client indexes without asking are put back.
    private static func json(_ reply: ClientReply) throws -> [UInt8] {
        var options = JSONEncodingOptions()
        options.preserveProtoFieldNames = true
        let (kind, lists): (String, [(String, Bool)]) =
            switch reply.reply {
            case .scored(let r): ("scored", [("logprobs", r.logprobs.isEmpty)])
            case .completed(let r):
                (
                    "completed",
                    [
                        ("tokens", r.tokens.isEmpty), ("depths", r.depths.isEmpty),
                        ("prompt_depths", r.promptDepths.isEmpty),
                    ]
                )
            default: ("", [])
            }
        let missing = lists.filter(\.1).map { "\"\($0.0)\":[]," }.joined()
        guard !missing.isEmpty else { return try reply.jsonUTF8Bytes(options: options) }
        let text = try reply.jsonString(options: options)
        guard let place = text.range(of: "\"\(kind)\":{") else { return Array(text.utf8) }
        return Array(text.replacingCharacters(in: place, with: "\"\(kind)\":{" + missing).utf8)
    }
}
