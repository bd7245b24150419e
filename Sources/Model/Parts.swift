import Kernels

// The three parts of the model that the services run. Each loads only its own tensors.

/// tokens → embedding → prelude layers → h⁰, and for ANIRA-E the exit distribution.
public final class Prelude {
    public let configuration: ModelConfiguration
    private let embedding: [Float]  // [vocabulary, H]
    private let layers: LayerStack
    private let decider: Decider?
    public var weightBytes: Int { layers.weightBytes + (decider?.weightBytes ?? 0) }
    public var layerCount: Int { layers.count }

    public init(_ checkpoint: Checkpoint) throws {
        let c = checkpoint.configuration
        configuration = c
        embedding = try checkpoint.floats("embed_tokens.weight", c.vocabSize, c.hiddenSize)
        layers = try LayerStack(
            checkpoint, part: "prelude", count: c.numPreludeLayers, rope: RotaryTable(c))
        decider = c.decider == .early ? try Decider(checkpoint) : nil
    }

    /// Writes the embedding of `token` to h [H].
    public func embed(_ token: Int32, into h: UnsafeMutablePointer<Float>) {
        let width = configuration.hiddenSize
        embedding.withUnsafeBufferPointer { h.update(from: $0.baseAddress! + Int(token) * width, count: width) }
    }

    /// h [M, H] in place: embeddings → h⁰.
    public func forward(_ h: UnsafeMutablePointer<Float>, rows: Int, cache: CacheView) {
        layers.forward(h, rows: rows, cache: cache)
    }

    /// Early deciders: p(1…K) for each of `rows` rows of h⁰, valid until the next call.
    public func distributions(_ h: UnsafePointer<Float>, rows: Int) -> UnsafePointer<Float> {
        guard let decider else { preconditionFailure("an online decider reads core states") }
        return UnsafePointer(decider.distributions(h, rows: rows))
    }
}

/// The shared core block, hᵗ = Core(hᵗ⁻¹), and for ANIRA-O the exit probability after each iteration.
public final class RecurrentCore {
    public let configuration: ModelConfiguration
    private let layers: LayerStack
    private let decider: Decider?
    public var weightBytes: Int { layers.weightBytes }

    public init(_ checkpoint: Checkpoint) throws {
        let c = checkpoint.configuration
        configuration = c
        layers = try LayerStack(checkpoint, part: "core", count: c.numCoreLayers, rope: RotaryTable(c))
        decider = c.decider == .online ? try Decider(checkpoint) : nil
    }

    /// One iteration in place on h [M, H]; rows may be at different depths.
    public func iterate(_ h: UnsafeMutablePointer<Float>, rows: Int, cache: CacheView) {
        layers.forward(h, rows: rows, cache: cache)
    }

    /// Entry d of rows that left after d iterations: keys and values of the exit state (exit_kv "project").
    public func projectExits(_ h: UnsafePointer<Float>, rows: Int, cache: CacheView) {
        layers.project(h, rows: rows, layer: 0, cache: cache)
    }

    /// Online deciders: λ for each of `rows` rows, valid until the next call.
    public func exitProbabilities(_ h: UnsafePointer<Float>, rows: Int) -> UnsafePointer<Float> {
        guard let decider else { preconditionFailure("an early decider reads prelude states") }
        return UnsafePointer(decider.exitProbabilities(h, rows: rows))
    }
}

/// exit states → coda layers → norm → lm_head → logits.
public final class Coda {
    public let configuration: ModelConfiguration
    private let layers: LayerStack
    private let norm: [Float]  // [H]
    private let head: PackedMatrix  // [vocabulary, H]
    private let x = Scratch()  // [M, H]
    private let logitRows = Scratch()  // [M, vocabulary]
    public var weightBytes: Int { layers.weightBytes + head.bytes }
    public var layerCount: Int { layers.count }

    public init(_ checkpoint: Checkpoint) throws {
        let c = checkpoint.configuration
        configuration = c
        layers = try LayerStack(checkpoint, part: "coda", count: c.numCodaLayers, rope: RotaryTable(c))
        norm = try checkpoint.floats("norm.weight", c.hiddenSize)
        let name = c.tieWordEmbeddings ? "embed_tokens.weight" : "lm_head.weight"
        head = try checkpoint.matrix(name, outputs: c.vocabSize, inputs: c.hiddenSize)
    }

    /// h [M, H] in place: exit states → final hidden states.
    public func forward(_ h: UnsafeMutablePointer<Float>, rows: Int, cache: CacheView) {
        layers.forward(h, rows: rows, cache: cache)
    }

    /// Logits [M, vocabulary] of h [M, H], valid until the next call.
    public func logits(_ h: UnsafePointer<Float>, rows: Int) -> UnsafePointer<Float> {
        let c = configuration
        let width = Int32(c.hiddenSize)
        let x = x.floats(rows * c.hiddenSize)
        let out = logitRows.floats(rows * c.vocabSize)
        anira_rmsnorm(h, width, norm, c.rmsNormEps, Int32(rows), width, x, width)
        head.multiply(x, rows: rows, into: out)
        return UnsafePointer(out)
    }
}

extension Checkpoint {
    /// Loads every part once, so that a damaged checkpoint is found before anything is started on it.
    public func validate() throws {
        _ = try Prelude(self)
        _ = try RecurrentCore(self)
        _ = try Coda(self)
    }
}
