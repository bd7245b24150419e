import Kernels

// The Llama layers of one part of the model, over rows of any sessions at any positions.
//
// Letters: M rows, H hidden size, I intermediate size, W = KV heads × D (keys of one layer), L layers, C context.
// A cache row holds, per layer, keys [W] then values [W]: L × 2W floats (docs/store.md).

/// Where a batch reads and writes keys and values. Filled by the stage that owns the cache.
public struct CacheView {
    /// Cache row 0.
    public var arena: UnsafeMutableRawPointer
    /// Bytes between cache rows.
    public var stride: Int
    /// How their elements are held.
    public var type: anira_kv_type
    /// Per batch row: the cache row its own keys and values go to.
    public var writes: [UInt32] = []
    /// Visible cache rows, several lists back to back.
    public var visible: [UInt32] = []
    /// Per batch row: where its list starts in `visible`. Rows of one item share a list.
    public var starts: [Int] = []
    /// Per batch row: how many positions of its list it sees, C.
    public var counts: [Int32] = []
    /// Per batch row: its position in the session.
    public var positions: [Int] = []

    public init(arena: UnsafeMutableRawPointer, stride: Int, type: anira_kv_type) {
        self.arena = arena
        self.stride = stride
        self.type = type
    }

    /// How many rows from `row` on share its list.
    func shared(from row: Int, to end: Int) -> Int {
        var last = row + 1
        while last < end, starts[last] == starts[row] { last += 1 }
        return last - row
    }

    /// Empties the batch, keeping the memory.
    public mutating func removeAll() {
        writes.removeAll(keepingCapacity: true)
        visible.removeAll(keepingCapacity: true)
        starts.removeAll(keepingCapacity: true)
        counts.removeAll(keepingCapacity: true)
        positions.removeAll(keepingCapacity: true)
    }
}

/// RMSNorm → attention → residual → RMSNorm → SwiGLU → residual, L times (model.md, "Shape").
public final class LayerStack {
    private struct Layer {
        let inputNorm: [Float]  // [H]
        let wkvq: PackedMatrix  // [2W + heads·D, H]: keys, values, queries
        let wo: PackedMatrix  // [H, heads·D]
        let postNorm: [Float]  // [H]
        let gateUp: PackedMatrix  // [I, H] twice, interleaved
        let down: PackedMatrix  // [H, I]
    }

    private let layers: [Layer]
    private let configuration: ModelConfiguration
    private let rope: RotaryTable
    private let x = Scratch()  // [M, H] normed input
    private let kvq = Scratch()  // [M, 2W + heads·D]
    private let attended = Scratch()  // [M, heads·D]
    private let inner = Scratch()  // [M, I]
    private let scratch = Scratch()  // of attention

    /// Number of layers L.
    public var count: Int { layers.count }
    /// Bytes of weights that one pass reads.
    public var weightBytes: Int {
        layers.reduce(0) { $0 + $1.wkvq.bytes + $1.wo.bytes + $1.gateUp.bytes + $1.down.bytes }
    }

    /// Loads `{part}.layers.{0..<count}` of the checkpoint.
    init(_ checkpoint: Checkpoint, part: String, count: Int, rope: RotaryTable) throws {
        let c = checkpoint.configuration
        let (h, w, i) = (c.hiddenSize, c.keyValueSize, c.intermediateSize)
        configuration = c
        self.rope = rope
        layers = try (0..<count).map { index in
            let base = "\(part).layers.\(index)"
            let keys = try checkpoint.floats("\(base).self_attn.k_proj.weight", w, h)
            let values = try checkpoint.floats("\(base).self_attn.v_proj.weight", w, h)
            let queries = try checkpoint.floats("\(base).self_attn.q_proj.weight", h, h)
            return Layer(
                inputNorm: try checkpoint.floats("\(base).input_layernorm.weight", h),
                wkvq: PackedMatrix(
                    keys + values + queries, outputs: 2 * w + h, inputs: h, format: checkpoint.weights),
                wo: try checkpoint.matrix("\(base).self_attn.o_proj.weight", outputs: h, inputs: h),
                postNorm: try checkpoint.floats("\(base).post_attention_layernorm.weight", h),
                gateUp: PackedMatrix(
                    gate: try checkpoint.floats("\(base).mlp.gate_proj.weight", i, h),
                    up: try checkpoint.floats("\(base).mlp.up_proj.weight", i, h), outputs: i, inputs: h,
                    format: checkpoint.weights),
                down: try checkpoint.matrix("\(base).mlp.down_proj.weight", outputs: h, inputs: i))
        }
    }

    /// Runs all layers in place on h [M, H]; keys and values of every row are in the cache before any row attends.
    func forward(_ h: UnsafeMutablePointer<Float>, rows m: Int, cache: CacheView) {
        for index in layers.indices {
            attention(h, m, index, cache)
            feedForward(h, m, layers[index])
        }
    }

    /// Writes only the keys and values of layer `index` for h [M, H]: the entry of an exit state.
    func project(_ h: UnsafePointer<Float>, rows m: Int, layer index: Int, cache: CacheView) {
        let outputs = 2 * configuration.keyValueSize
        let kv = kvq.floats(m * outputs)
        project(h, rows: m, layer: index, outputs: outputs, into: kv)
        cacheKeysAndValues(kv, rows: m, apart: outputs, layer: index, cache)
    }

    /// The first `outputs` of keys, values and queries, kvq [M, outputs], before their rotation.
    private func project(
        _ h: UnsafePointer<Float>, rows m: Int, layer index: Int, outputs: Int, into kvq: UnsafeMutablePointer<Float>
    ) {
        let x = x.floats(m * configuration.hiddenSize)
        norm(h, layers[index].inputNorm, m, into: x)
        layers[index].wkvq.multiply(x, rows: m, outputs: outputs, into: kvq)
    }

    /// kv: M rows that begin with keys and values [2W], `apart` floats from one to the next. Rotates the keys in place.
    private func cacheKeysAndValues(
        _ kv: UnsafeMutablePointer<Float>, rows m: Int, apart: Int, layer index: Int, _ cache: CacheView
    ) {
        let (w, size) = (configuration.keyValueSize, anira_cached_size(cache.type))
        for row in 0..<m {
            let pair = kv + row * apart
            rope.rotate(pair, heads: configuration.numKeyValueHeads, position: cache.positions[row])
            let place = cache.arena + Int(cache.writes[row]) * cache.stride + index * 2 * w * size
            anira_store_cached(cache.type, pair, Int32(2 * w), place)
        }
    }

    private func attention(_ h: UnsafeMutablePointer<Float>, _ m: Int, _ index: Int, _ cache: CacheView) {
        let c = configuration
        let (width, w, d) = (c.hiddenSize, c.keyValueSize, c.headSize)
        let apart = 2 * w + width
        let kvq = kvq.floats(m * apart)
        project(h, rows: m, layer: index, outputs: apart, into: kvq)
        cacheKeysAndValues(kvq, rows: m, apart: apart, layer: index, cache)
        let q = kvq + 2 * w
        let attended = attended.floats(m * width)
        let split = Split(cache, rows: m, heads: c.numKeyValueHeads, width: width)
        let room = anira_attention_scratch(
            Int32(m), Int32(c.numAttentionHeads), Int32(c.numKeyValueHeads), Int32(split.longest), Int32(d))
        let scratch = scratch.floats(split.parts * room)
        let (scale, shared) = (1 / Float(d).squareRoot(), c.numAttentionHeads / c.numKeyValueHeads)
        let (visible, counts) = (cache.visible, cache.counts)
        visible.withUnsafeBufferPointer { visible in
            counts.withUnsafeBufferPointer { counts in
                parallel(split.parts) { part in
                    let heads = split.heads(part)
                    let (offset, place) = (heads.lowerBound * shared * d, index * 2 * w + heads.lowerBound * d)
                    for row in split.rows(part) {
                        rope.rotate(
                            q + row * apart + offset, heads: heads.count * shared, position: cache.positions[row])
                    }
                    var row = split.rows(part).lowerBound
                    let end = split.rows(part).upperBound
                    while row < end {
                        let next = row + cache.shared(from: row, to: end)
                        var rows = anira_cache(
                            type: cache.type, rows: cache.arena, stride: cache.stride, keys: place, values: place + w)
                        anira_attention(
                            q + row * apart + offset, Int32(apart), counts.baseAddress! + row, Int32(next - row), &rows,
                            visible.baseAddress! + cache.starts[row],
                            next < end ? visible.baseAddress! + cache.starts[next] : nil, next < end ? counts[next] : 0,
                            Int32(heads.count * shared), Int32(heads.count), Int32(d), scale, scratch + part * room,
                            attended + row * width + offset, Int32(width))
                        row = next
                    }
                }
            }
        }
        layers[index].wo.multiplyAdd(attended, rows: m, into: h)
    }

    private func feedForward(_ h: UnsafeMutablePointer<Float>, _ m: Int, _ layer: Layer) {
        let c = configuration
        let x = x.floats(m * c.hiddenSize)
        let inner = inner.floats(m * c.intermediateSize)
        norm(h, layer.postNorm, m, into: x)
        layer.gateUp.swiglu(x, rows: m, into: inner)
        layer.down.multiplyAdd(inner, rows: m, into: h)
    }

    private func norm(
        _ h: UnsafePointer<Float>, _ weight: [Float], _ m: Int, into x: UnsafeMutablePointer<Float>
    ) {
        let width = Int32(configuration.hiddenSize)
        anira_rmsnorm(h, width, weight, configuration.rmsNormEps, Int32(m), width, x, width)
    }
}

/// How attention is shared out: rows where there are many, heads where there are few and the context is long.
private struct Split {
    let parts: Int
    /// Most visible positions of a row.
    let longest: Int
    private let total: Int
    private let count: Int
    private let splitsHeads: Bool

    /// width: floats of a row's query.
    init(_ cache: CacheView, rows: Int, heads: Int, width: Int) {
        longest = Int(cache.counts.max() ?? 0)
        let work = cache.counts.reduce(0) { $0 + Int($1) } * width
        let threads = work < 1 << 16 ? 1 : Int(anira_threads())
        splitsHeads = rows < threads && heads >= threads
        (total, count) = (splitsHeads ? rows : heads, splitsHeads ? heads : rows)
        parts = min(count, rows > 8 * threads && threads > 1 ? 4 * threads : threads)
    }

    private func range(_ part: Int) -> Range<Int> { count * part / parts..<count * (part + 1) / parts }
    func rows(_ part: Int) -> Range<Int> { splitsHeads ? 0..<total : range(part) }
    func heads(_ part: Int) -> Range<Int> { splitsHeads ? range(part) : 0..<total }
}

/// Cosines and sines of rotate-half RoPE, [positions, D/2] each, angles in float32 as the reference computes them.
public final class RotaryTable: Sendable {
    private let cosine: [Float]
    private let sine: [Float]
    private let negatedSine: [Float]
    private let headSize: Int

    /// Angles of every position the configuration allows.
    public init(_ c: ModelConfiguration) {
        headSize = c.headSize
        let half = c.headSize / 2
        let frequencies = (0..<half).map { 1 / power(c.ropeTheta, Float(2 * $0) / Float(c.headSize)) }
        var cosine: [Float] = []
        var sine: [Float] = []
        for position in 0..<c.maxPositionEmbeddings {
            for frequency in frequencies {
                let angle = Float(position) * frequency
                cosine.append(cosineOf(angle))
                sine.append(sineOf(angle))
            }
        }
        self.cosine = cosine
        self.sine = sine
        negatedSine = sine.map { -$0 }
    }

    /// Turns `heads` heads of one row in place; `back` undoes it, which is also its derivative.
    public func rotate(_ x: UnsafeMutablePointer<Float>, heads: Int, position: Int, back: Bool = false) {
        let half = headSize / 2
        cosine.withUnsafeBufferPointer { cosine in
            (back ? negatedSine : sine).withUnsafeBufferPointer { sine in
                anira_rope(
                    x, Int32(heads), Int32(headSize), cosine.baseAddress! + position * half,
                    sine.baseAddress! + position * half)
            }
        }
    }
}
