import Kernels

/// How the weights of products are held in memory. Norms, biases and the embedding stay float32.
public enum WeightFormat: String, Sendable, CaseIterable, Codable {
    case f32
    /// bfloat16, as each row of inputs then is; summed in float32.
    case bf16
    /// 8-bit integers with a scale for each output; each row of inputs is rounded to 16-bit integers, and sums are exact.
    case int8

    /// The end of a model's fingerprint: keys and values of other arithmetic are not mixed with this one's.
    var fingerprint: String {
        switch self {
        case .f32: ""
        case .bf16: "-bf16xbf16"  // "-bf16" where inputs were not rounded
        case .int8: "-int8"
        }
    }

    var kernel: anira_format {
        switch self {
        case .f32: ANIRA_F32
        case .bf16: ANIRA_BF16
        case .int8: ANIRA_INT8
        }
    }
}

/// Weights packed once for the product kernels, [outputs, inputs] in panels of 16 outputs.
public final class PackedMatrix: @unchecked Sendable {  // written in init only
    public let outputs: Int
    public let inputs: Int
    private let packed: UnsafeMutablePointer<Float>
    private let scales: UnsafeMutablePointer<Float>
    private let scaleCount: Int
    private let matrix: anira_matrix

    /// Bytes a product reads.
    public let bytes: Int

    private init(_ format: WeightFormat, outputs: Int, inputs: Int, pair: Bool) {
        bytes = anira_packed_bytes(format.kernel, Int32(outputs), Int32(inputs)) * (pair ? 2 : 1)
        scaleCount = (outputs + 15) / 16 * 16 * (pair ? 2 : 1)
        guard let memory = anira_allocate(bytes / 4), let scales = anira_allocate(scaleCount) else {
            fatalError("out of memory packing \(outputs)×\(inputs)")
        }
        self.outputs = outputs
        self.inputs = inputs
        self.scales = scales
        packed = memory
        matrix = anira_matrix(
            format: format.kernel, n: Int32(outputs), k: Int32(inputs), panels: UnsafeRawPointer(memory),
            scales: UnsafePointer(scales))
    }

    /// weights: row-major [outputs, inputs].
    public convenience init(_ weights: [Float], outputs: Int, inputs: Int, format: WeightFormat = .f32) {
        precondition(weights.count == outputs * inputs)
        self.init(format, outputs: outputs, inputs: inputs, pair: false)
        anira_pack(format.kernel, weights, Int32(outputs), Int32(inputs), packed, scales)
    }

    /// gate and up [outputs, inputs] each, interleaved for the fused SwiGLU product.
    convenience init(gate: [Float], up: [Float], outputs: Int, inputs: Int, format: WeightFormat) {
        precondition(gate.count == outputs * inputs && up.count == gate.count)
        self.init(format, outputs: outputs, inputs: inputs, pair: true)
        anira_pack_pair(format.kernel, gate, up, Int32(outputs), Int32(inputs), packed, scales)
    }

    deinit {
        anira_release(packed, bytes / 4)
        anira_release(scales, scaleCount)
    }

    /// y [rows, outputs] = x [rows, inputs] · Wᵀ. outputs: only the first so many, all of them where none are given.
    public func multiply(
        _ x: UnsafePointer<Float>, rows: Int, outputs: Int? = nil, into y: UnsafeMutablePointer<Float>
    ) {
        let outputs = outputs ?? self.outputs
        precondition(outputs <= self.outputs)
        var matrix = matrix
        matrix.n = Int32(outputs)
        anira_matmul(x, Int32(inputs), &matrix, Int32(rows), y, matrix.n)
    }

    /// y += x · Wᵀ
    func multiplyAdd(_ x: UnsafePointer<Float>, rows: Int, into y: UnsafeMutablePointer<Float>) {
        withUnsafePointer(to: matrix) { anira_matmul_add(x, Int32(inputs), $0, Int32(rows), y, Int32(outputs)) }
    }

    /// y = silu(x · gateᵀ) ⊙ (x · upᵀ)
    func swiglu(_ x: UnsafePointer<Float>, rows: Int, into y: UnsafeMutablePointer<Float>) {
        withUnsafePointer(to: matrix) { anira_matmul_swiglu(x, Int32(inputs), $0, Int32(rows), y, Int32(outputs)) }
    }
}
