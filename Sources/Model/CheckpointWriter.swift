import Foundation

/// Writes checkpoint folders: trainers and tests hand over tensors, measurements take random ones.
public enum CheckpointWriter {
    /// Names and shapes of every tensor of the configuration (model.md, "Checkpoint directory").
    public static func shapes(_ c: ModelConfiguration) -> [(name: String, shape: [Int])] {
        let (h, w, i, j) = (c.hiddenSize, c.keyValueSize, c.intermediateSize, c.deciderIntermediateSize)
        let outputs = c.decider == .early ? c.maxDepth : 1
        var shapes: [(String, [Int])] = [("embed_tokens.weight", [c.vocabSize, h])]
        for (part, count) in [
            ("prelude", c.numPreludeLayers), ("core", c.numCoreLayers), ("coda", c.numCodaLayers),
        ] {
            for layer in 0..<count {
                let base = "\(part).layers.\(layer)"
                shapes += [
                    ("\(base).input_layernorm.weight", [h]), ("\(base).self_attn.q_proj.weight", [h, h]),
                    ("\(base).self_attn.k_proj.weight", [w, h]), ("\(base).self_attn.v_proj.weight", [w, h]),
                    ("\(base).self_attn.o_proj.weight", [h, h]), ("\(base).post_attention_layernorm.weight", [h]),
                    ("\(base).mlp.gate_proj.weight", [i, h]), ("\(base).mlp.up_proj.weight", [i, h]),
                    ("\(base).mlp.down_proj.weight", [h, i]),
                ]
            }
        }
        shapes += [
            ("decider.norm.weight", [h]), ("decider.norm.bias", [h]), ("decider.up.weight", [j, h]),
            ("decider.out.weight", [outputs, j]), ("decider.out.bias", [outputs]), ("norm.weight", [h]),
        ]
        return c.tieWordEmbeddings ? shapes : shapes + [("lm_head.weight", [c.vocabSize, h])]
    }

    /// Seeded random weights of the usual scale: norms are 1, biases 0, matrices uniform with variance 1 / inputs.
    public static func random(_ c: ModelConfiguration, seed: UInt64) -> [String: [Float]] {
        var generator = SplitMix64(state: seed)
        var tensors: [String: [Float]] = [:]
        for (name, shape) in shapes(c) {
            let count = shape.reduce(1, *)
            if name.hasSuffix("norm.weight") {
                tensors[name] = [Float](repeating: 1, count: count)
            } else if name.hasSuffix("bias") {
                tensors[name] = [Float](repeating: 0, count: count)
            } else {
                let bound = (3 / Float(shape[1])).squareRoot()
                tensors[name] = (0..<count).map { _ in Float.random(in: -bound...bound, using: &generator) }
            }
        }
        return tensors
    }

    /// Writes config.json, model.safetensors (F32) and, when given, vocab.json into `directory`.
    public static func write(
        _ c: ModelConfiguration, tensors: [String: [Float]], vocabulary: [String]? = nil, to directory: String
    ) throws {
        let folder = URL(fileURLWithPath: directory)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try encoder.encode(c).write(to: folder.appendingPathComponent("config.json"), options: .atomic)
        if let vocabulary {
            try encoder.encode(vocabulary).write(to: folder.appendingPathComponent("vocab.json"), options: .atomic)
        }
        var header: [String: Any] = ["__metadata__": ["format": "pt"]]
        var data = Data()
        for (name, shape) in shapes(c) {
            guard let values = tensors[name], values.count == shape.reduce(1, *) else {
                throw ModelError(.invalid, field: name, "tensor '\(name)' \(shape) is missing or has another size")
            }
            let start = data.count
            values.withUnsafeBytes { data.append(contentsOf: $0) }
            header[name] = ["dtype": "F32", "shape": shape, "data_offsets": [start, data.count]]
        }
        var json = try JSONSerialization.data(withJSONObject: header, options: [.sortedKeys])
        json.append(contentsOf: [UInt8](repeating: 0x20, count: (8 - json.count % 8) % 8))
        var file = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) }
        file.append(json)
        file.append(data)
        try file.write(to: folder.appendingPathComponent("model.safetensors"), options: .atomic)
    }
}

/// SplitMix64: small, seeded, the same everywhere.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
