import Foundation

/// Shape and rules of a checkpoint: the contents of `config.json`, checked.
public struct ModelConfiguration: Sendable, Equatable, Codable {
    public enum DeciderKind: String, Sendable, Codable { case early, online }

    /// What a position shows to later iterations once it has left.
    public enum ExitKV: String, Sendable, Codable {
        /// Keys and values projected from the exit state (one core layer).
        case project
        /// The latest entry it computed.
        case latest
    }

    public var modelType: String
    public var vocabSize: Int
    /// H.
    public var hiddenSize: Int
    /// I, width of the feed-forward layers.
    public var intermediateSize: Int
    public var numAttentionHeads: Int
    public var numKeyValueHeads: Int
    public var numPreludeLayers: Int
    public var numCoreLayers: Int
    public var numCodaLayers: Int
    /// K, the most core iterations a token may take (1…255).
    public var maxDepth: Int
    /// Most positions a session may have.
    public var maxPositionEmbeddings: Int
    public var rmsNormEps: Float
    public var ropeTheta: Float
    public var decider: DeciderKind
    public var deciderIntermediateSize: Int
    public var tieWordEmbeddings: Bool
    public var exitKV: ExitKV

    /// D, width of one attention head.
    public var headSize: Int { hiddenSize / numAttentionHeads }
    /// Width of the keys (and of the values) of one layer: KV heads × D.
    public var keyValueSize: Int { numKeyValueHeads * headSize }
    /// Most entries a position keeps in the core's cache (model.md, "Early exit").
    public var maxEntries: Int { maxDepth }

    enum CodingKeys: String, CodingKey {
        case modelType = "model_type"
        case vocabSize = "vocab_size"
        case hiddenSize = "hidden_size"
        case intermediateSize = "intermediate_size"
        case numAttentionHeads = "num_attention_heads"
        case numKeyValueHeads = "num_key_value_heads"
        case numPreludeLayers = "num_prelude_layers"
        case numCoreLayers = "num_core_layers"
        case numCodaLayers = "num_coda_layers"
        case maxDepth = "max_depth"
        case maxPositionEmbeddings = "max_position_embeddings"
        case rmsNormEps = "rms_norm_eps"
        case ropeTheta = "rope_theta"
        case decider
        case deciderIntermediateSize = "decider_intermediate_size"
        case tieWordEmbeddings = "tie_word_embeddings"
        case exitKV = "exit_kv"
    }

    public init(from decoder: any Decoder) throws {
        let c = try decoder.container(keyedBy: CodingKeys.self)
        modelType = try c.decodeIfPresent(String.self, forKey: .modelType) ?? "anira"
        vocabSize = try c.whole(.vocabSize)
        hiddenSize = try c.whole(.hiddenSize)
        intermediateSize = try c.whole(.intermediateSize)
        numAttentionHeads = try c.whole(.numAttentionHeads)
        numKeyValueHeads = try c.wholeIfPresent(.numKeyValueHeads) ?? numAttentionHeads
        numPreludeLayers = try c.whole(.numPreludeLayers)
        numCoreLayers = try c.whole(.numCoreLayers)
        numCodaLayers = try c.whole(.numCodaLayers)
        maxDepth = try c.whole(.maxDepth)
        maxPositionEmbeddings = try c.whole(.maxPositionEmbeddings)
        rmsNormEps = try c.decodeIfPresent(Float.self, forKey: .rmsNormEps) ?? 1e-5
        ropeTheta = try c.decodeIfPresent(Float.self, forKey: .ropeTheta) ?? 10_000
        decider = try c.decode(DeciderKind.self, forKey: .decider)
        deciderIntermediateSize =
            try c.wholeIfPresent(.deciderIntermediateSize) ?? intermediateSize
        tieWordEmbeddings = try c.decodeIfPresent(Bool.self, forKey: .tieWordEmbeddings) ?? false
        exitKV = try c.decodeIfPresent(ExitKV.self, forKey: .exitKV) ?? (numCoreLayers == 1 ? .project : .latest)
    }

    /// Reads and checks `config.json`; errors name the field.
    public init(json: Data, path: String) throws {
        do {
            self = try JSONDecoder().decode(ModelConfiguration.self, from: json)
        } catch let error as DecodingError {
            throw ModelError(.damaged, "\(path): \(error.summary(of: json))")
        }
        try check(path)
    }

    /// From the fields of `config.json`, by their names there; checked like a file. path: what errors call the source.
    public init(fields: [String: Any], path: String) throws {
        try self.init(json: JSONSerialization.data(withJSONObject: fields), path: path)
    }

    private func check(_ path: String) throws {
        guard modelType == "anira" else {
            throw ModelError(.unsupported, "\(path): model_type '\(modelType)' is not supported; expected 'anira'")
        }
        let ranges: [(CodingKeys, Int, ClosedRange<Int>)] = [
            (.vocabSize, vocabSize, 1...(1 << 24)), (.hiddenSize, hiddenSize, 2...(1 << 16)),
            (.intermediateSize, intermediateSize, 1...(1 << 18)), (.numAttentionHeads, numAttentionHeads, 1...1024),
            (.numKeyValueHeads, numKeyValueHeads, 1...1024), (.numPreludeLayers, numPreludeLayers, 1...255),
            (.numCoreLayers, numCoreLayers, 1...255), (.numCodaLayers, numCodaLayers, 1...255),
            (.maxDepth, maxDepth, 1...255), (.maxPositionEmbeddings, maxPositionEmbeddings, 1...(1 << 22)),
            (.deciderIntermediateSize, deciderIntermediateSize, 1...(1 << 18)),
        ]
        for (key, value, range) in ranges where !range.contains(value) {
            throw ModelError(
                .invalid, field: key.rawValue,
                "\(path): \(key.rawValue) is \(value); it must be \(range.lowerBound)…\(range.upperBound)")
        }
        guard hiddenSize % numAttentionHeads == 0, headSize % 2 == 0 else {
            throw ModelError(
                .invalid, field: "num_attention_heads",
                "\(path): hidden_size \(hiddenSize) over \(numAttentionHeads) heads must give an even head width")
        }
        guard numAttentionHeads % numKeyValueHeads == 0 else {
            throw ModelError(
                .invalid, field: "num_key_value_heads",
                "\(path): \(numAttentionHeads) heads are not a multiple of num_key_value_heads \(numKeyValueHeads)")
        }
        guard rmsNormEps > 0, rmsNormEps.isFinite, ropeTheta > 0, ropeTheta.isFinite else {
            throw ModelError(.invalid, "\(path): rms_norm_eps and rope_theta must be positive numbers")
        }
        guard exitKV == .latest || numCoreLayers == 1 else {
            throw ModelError(
                .unsupported, field: "exit_kv",
                "\(path): exit_kv 'project' needs one core layer, found \(numCoreLayers); use 'latest'")
        }
    }
}

extension KeyedDecodingContainer {
    /// A whole number. Of one that is not, Foundation says so by an error of its own, without the field.
    fileprivate func whole(_ key: Key) throws -> Int {
        do {
            return try decode(Int.self, forKey: key)
        } catch  where !(error is DecodingError) {
            throw DecodingError.typeMismatch(
                Int.self, .init(codingPath: codingPath + [key], debugDescription: "\(error)"))
        }
    }

    fileprivate func wholeIfPresent(_ key: Key) throws -> Int? {
        try contains(key) && !decodeNil(forKey: key) ? whole(key) : nil
    }
}

extension DecodingError {
    /// The field of `json` at fault and what is wrong with it.
    public func summary(of json: Data) -> String {
        func field(_ context: Context) -> String {
            "field '\(context.codingPath.map(\.stringValue).joined(separator: "."))'"
        }
        switch self {
        case .keyNotFound(let key, _): return "field '\(key.stringValue)' is missing"
        case .typeMismatch(is Int.Type, let context): return "\(field(context)) must be a whole number"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            return context.codingPath.isEmpty ? "not a JSON object" : "\(field(context)) has the wrong type"
        case .dataCorrupted(let context) where !context.codingPath.isEmpty:
            return "\(field(context)) has an unknown value"
        default:
            // Foundation says the same of a number that its field cannot hold.
            do {
                _ = try JSONSerialization.jsonObject(with: json)
                return "a number is negative, too large or not whole where it may not be"
            } catch {
                return "not valid JSON"
            }
        }
    }
}
