import Foundation

/// Writes checkpoint folders: trainers and tests hand over tensors, measurements take random ones.
public enum CheckpointWriter {
    /// Names and shapes of every tensor of the configuration (model.md, "Checkpoints").
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
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try AtomicFile.write(encoder.encode(c), to: "\(directory)/config.json")
        if let vocabulary { try AtomicFile.write(encoder.encode(vocabulary), to: "\(directory)/vocab.json") }
        var values: [Float] = []
        let shapes = shapes(c)
        for (name, shape) in shapes {
            guard let tensor = tensors[name], tensor.count == shape.reduce(1, *) else {
                throw ModelError(.invalid, field: name, "tensor '\(name)' \(shape) is missing or has another size")
            }
            values += tensor
        }
        try values.withUnsafeBufferPointer { values in
            var offset = 0
            let tensors = shapes.map { name, shape in
                let range = offset..<(offset + shape.reduce(1, *))
                offset = range.upperBound
                return SafetensorsWriter.Tensor(
                    name, shape: shape, values: UnsafeBufferPointer(rebasing: values[range]))
            }
            try SafetensorsWriter.write(tensors, metadata: ["format": "pt"], to: "\(directory)/model.safetensors")
        }
    }
}
