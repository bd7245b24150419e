import Model

/// Where each tensor of a checkpoint lies in the one flat buffer that weights, gradients and moments share.
///
/// Tensors follow each other in the order of `CheckpointWriter.shapes`, so that a layer's keys and values, and its gate
/// and up projections, are one matrix each.
public struct ParameterLayout: Sendable {
    /// Offsets of one layer's tensors.
    struct Layer: Sendable {
        let inputNorm: Int  // [H]
        let wq: Int  // [H, H]
        let wkv: Int  // [2W, H], keys then values
        let wo: Int  // [H, H]
        let postNorm: Int  // [H]
        let gateUp: Int  // [2I, H], gates then ups
        let down: Int  // [H, I]
    }

    public struct Tensor: Sendable {
        public let name: String
        public let shape: [Int]
        public let range: Range<Int>
    }

    let configuration: ModelConfiguration
    let embedding: Int  // [V, H]
    let prelude: [Layer]
    let core: [Layer]
    let coda: [Layer]
    let deciderNorm: Int  // [H]
    let deciderNormBias: Int  // [H]
    let deciderUp: Int  // [J, H]
    let deciderOut: Int  // [outputs, J]
    let deciderBias: Int  // [outputs]
    let norm: Int  // [H]
    let head: Int  // [V, H], the embedding when tied
    public let tensors: [Tensor]
    /// Floats in all.
    public let count: Int

    public init(_ c: ModelConfiguration) {
        var offset = 0
        tensors = CheckpointWriter.shapes(c).map { name, shape in
            let start = offset
            offset += shape.reduce(1, *)
            return Tensor(name: name, shape: shape, range: start..<offset)
        }
        count = offset
        configuration = c
        let places = Dictionary(uniqueKeysWithValues: tensors.map { ($0.name, $0.range.lowerBound) })
        func layers(_ part: String, _ count: Int) -> [Layer] {
            (0..<count).map { index in
                let base = "\(part).layers.\(index)"
                return Layer(
                    inputNorm: places["\(base).input_layernorm.weight"]!,
                    wq: places["\(base).self_attn.q_proj.weight"]!, wkv: places["\(base).self_attn.k_proj.weight"]!,
                    wo: places["\(base).self_attn.o_proj.weight"]!,
                    postNorm: places["\(base).post_attention_layernorm.weight"]!,
                    gateUp: places["\(base).mlp.gate_proj.weight"]!, down: places["\(base).mlp.down_proj.weight"]!)
            }
        }
        embedding = places["embed_tokens.weight"]!
        prelude = layers("prelude", c.numPreludeLayers)
        core = layers("core", c.numCoreLayers)
        coda = layers("coda", c.numCodaLayers)
        deciderNorm = places["decider.norm.weight"]!
        deciderNormBias = places["decider.norm.bias"]!
        deciderUp = places["decider.up.weight"]!
        deciderOut = places["decider.out.weight"]!
        deciderBias = places["decider.out.bias"]!
        norm = places["norm.weight"]!
        head = places["lm_head.weight"] ?? embedding
    }

    /// K for an early decider, 1 for an online one.
    var deciderOutputs: Int { configuration.decider == .early ? configuration.maxDepth : 1 }

    /// The buffer cut into named tensors, to be written as a checkpoint.
    func tensors(of floats: UnsafePointer<Float>) -> [String: [Float]] {
        Dictionary(
            uniqueKeysWithValues: tensors.map { tensor in
                (
                    tensor.name,
                    Array(UnsafeBufferPointer(start: floats + tensor.range.lowerBound, count: tensor.range.count))
                )
            })
    }
}
