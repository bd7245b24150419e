import Foundation

/// Words of the vocabulary: text is split at white space, one word a token.
/// Read from `vocab.json` (a list, index = token id) or from a `tokenizer.json` of the WordLevel kind.
public struct Vocabulary: Sendable {
    public let words: [String]
    private let ids: [String: Int32]

    public init(words: [String]) {
        self.words = words
        ids = Dictionary(words.enumerated().map { ($1, Int32($0)) }, uniquingKeysWith: { first, _ in first })
    }

    /// Token ids of `text`; an unknown word is an error that names it.
    public func tokens(of text: String) throws -> [Int32] {
        try text.split(whereSeparator: \.isWhitespace).map { word in
            guard let id = ids[String(word)] else {
                throw ModelError(
                    .invalid, field: "text", "text: the word '\(word.prefix(40))' is not in the vocabulary")
            }
            return id
        }
    }

    /// The words of `tokens`, joined by spaces.
    public func text(of tokens: some Sequence<Int32>) -> String {
        var text = ""
        for (index, token) in tokens.enumerated() {
            if index > 0 { text += " " }
            text += words.indices.contains(Int(token)) ? words[Int(token)] : "<\(token)>"
        }
        return text
    }

    /// nil when the folder has no vocabulary this engine reads; then requests carry token ids.
    static func load(from directory: String, size: Int) throws -> Vocabulary? {
        if let data = try read("\(directory)/vocab.json") {
            let words: [String]
            do {
                words = try JSONDecoder().decode([String].self, from: data)
            } catch {
                throw ModelError(.damaged, "\(directory)/vocab.json is damaged: it must be a JSON list of words")
            }
            guard words.count <= size else {
                throw ModelError(
                    .damaged, "\(directory)/vocab.json has \(words.count) words, vocab_size is \(size)")
            }
            return Vocabulary(words: words)
        }
        guard let data = try read("\(directory)/tokenizer.json") else { return nil }
        struct Tokenizer: Decodable {
            struct Model: Decodable {
                let type: String
                let vocab: [String: Int]
            }
            let model: Model
        }
        do {
            let tokenizer = try JSONDecoder().decode(Tokenizer.self, from: data)
            guard tokenizer.model.type == "WordLevel" else { return nil }
            var words = [String](repeating: "", count: size)
            for (word, id) in tokenizer.model.vocab where words.indices.contains(id) { words[id] = word }
            return Vocabulary(words: words)
        } catch is DecodingError {
            return nil  // a tokenizer of another kind: requests carry token ids
        }
    }

    /// nil when there is no such file.
    private static func read(_ path: String) throws -> Data? {
        guard FileManager.default.fileExists(atPath: path) else { return nil }
        guard let data = FileManager.default.contents(atPath: path) else {
            throw ModelError(.unreadable, "cannot read \(path): it must be a file that this user may read")
        }
        return data
    }
}
