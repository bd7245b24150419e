import Foundation
import Messaging
import Proto
import SwiftProtobuf
import Testing

/// One entry of the vector blocks of docs/protocol.md.
struct Vector: Sendable, CustomTestStringConvertible {
    enum Form: String, Sendable { case vector, message, refused }

    let form: Form
    let name: String
    /// The protobuf message, or for refused ones who reads it.
    let kind: String
    let frames: [[UInt8]]
    var json: String
    var testDescription: String { name }

    /// `form: name kind frame…`, frames in hexadecimal, "-" an empty one; nil when the line is none of it.
    init?(line: Substring) {
        let words = line.split(separator: " ").map(String.init)
        guard words.count >= 4, words[0].last == ":", let form = Form(rawValue: String(words[0].dropLast())) else {
            return nil
        }
        let frames = words[3...].map { $0 == "-" ? [] : Self.bytes($0) }
        guard !frames.contains(nil) else { return nil }
        (self.form, name, kind, json) = (form, words[1], words[2], "")
        self.frames = frames.compactMap(\.self)
    }

    /// nil when the digits are not pairs of hexadecimal ones.
    private static func bytes(_ digits: String) -> [UInt8]? {
        guard digits.utf8.count % 2 == 0 else { return nil }
        let pairs = stride(from: 0, to: digits.utf8.count, by: 2).map { String(digits.dropFirst($0).prefix(2)) }
        let bytes = pairs.compactMap { UInt8($0, radix: 16) }
        return bytes.count == pairs.count ? bytes : nil
    }
}

/// docs/protocol.md, as far as a program can read it.
enum Document {
    static let text: String = {
        // The folder of the tests may be reached through a link; the document lies beside the real one.
        let file = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        let root = file.deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        do {
            return try String(contentsOf: root.appendingPathComponent("docs/protocol.md"), encoding: .utf8)
        } catch {
            fatalError("docs/protocol.md cannot be read: \(error)")
        }
    }()

    /// Contents of the fenced blocks of one language.
    static func blocks(_ language: String) -> [[Substring]] {
        var blocks: [[Substring]] = []
        var open: [Substring]?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if let lines = open {
                if line == "```" { blocks.append(lines) }
                open = line == "```" ? nil : lines + [line]
            } else if line == "```\(language)" {
                open = []
            }
        }
        return blocks
    }

    /// Lines of the vector blocks that are neither a header nor part of one entry's JSON.
    static var strayLines: [String] { read.stray }
    static func vectors(_ form: Vector.Form) -> [Vector] { read.vectors.filter { $0.form == form } }

    private static let read: (vectors: [Vector], stray: [String]) = {
        var vectors: [Vector] = []
        var stray: [String] = []
        for line in blocks("vector").joined() where !line.isEmpty {
            if let vector = Vector(line: line) {
                vectors.append(vector)
            } else if line.first == "{", !vectors.isEmpty, vectors[vectors.count - 1].json.isEmpty {
                vectors[vectors.count - 1].json = String(line)
            } else {
                stray.append(String(line))
            }
        }
        return (vectors, stray)
    }()

    /// The JSON messages of the text, each from a line that starts with "{" to the line before the next such one.
    static let examples: [String] = blocks("json").flatMap { lines in
        lines.reduce(into: [String]()) { examples, line in
            if line.first == "{" || examples.isEmpty {
                examples.append(String(line))
            } else {
                examples[examples.count - 1] += line
            }
        }
    }
}

/// A JSON value: numbers are equal when their values are, whatever their spelling.
enum JSON: Decodable, Equatable {
    case object([String: JSON]), array([JSON]), string(String), number(Double), bool(Bool), null

    init(_ text: some StringProtocol) throws { self = try JSONDecoder().decode(JSON.self, from: Data(text.utf8)) }

    init(from decoder: any Swift.Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let bool = try? value.decode(Bool.self) {
            self = .bool(bool)
        } else if let number = try? value.decode(Double.self) {
            self = .number(number)
        } else if let string = try? value.decode(String.self) {
            self = .string(string)
        } else if let array = try? value.decode([JSON].self) {
            self = .array(array)
        } else {
            self = .object(try value.decode([String: JSON].self))
        }
    }

    subscript(key: String) -> JSON? {
        guard case .object(let fields) = self else { return nil }
        return fields[key]
    }
}

extension SwiftProtobuf.Message {
    /// The same message gives the same bytes.
    func bytes() throws -> [UInt8] {
        var options = BinaryEncodingOptions()
        options.useDeterministicOrdering = true
        return try serializedBytes(options: options)
    }

    func json() throws -> JSON {
        var options = JSONEncodingOptions()
        options.preserveProtoFieldNames = true
        return try JSON(try jsonString(options: options))
    }
}
