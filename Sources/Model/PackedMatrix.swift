import Kernels

/// Weights packed once for the product kernels, [outputs, inputs] in panels of 16 outputs.
public final class PackedMatrix: @unchecked Sendable {  // written in init only
    public let outputs: Int
    public let inputs: Int
    let packed: UnsafeMutablePointer<Float>
    private let count: Int

    /// Bytes a product reads.
    public var bytes: Int { count * 4 }

    private init(outputs: Int, inputs: Int, count: Int) {
        guard let memory = anira_allocate(count) else { fatalError("out of memory packing \(outputs)×\(inputs)") }
        self.outputs = outputs
        self.inputs = inputs
        self.count = count
        packed = memory
    }

    /// weights: row-major [outputs, inputs].
    public convenience init(_ weights: [Float], outputs: Int, inputs: Int) {
        precondition(weights.count == outputs * inputs)
        self.init(outputs: outputs, inputs: inputs, count: anira_packed_count(Int32(outputs), Int32(inputs)))
        anira_pack(weights, Int32(outputs), Int32(inputs), packed)
    }

    /// gate and up [outputs, inputs] each, interleaved for the fused SwiGLU product.
    convenience init(gate: [Float], up: [Float], outputs: Int, inputs: Int) {
        precondition(gate.count == outputs * inputs && up.count == gate.count)
        self.init(outputs: outputs, inputs: inputs, count: 2 * anira_packed_count(Int32(outputs), Int32(inputs)))
        anira_pack_pair(gate, up, Int32(outputs), Int32(inputs), packed)
    }

    deinit { anira_release(packed, count) }

    /// y [rows, outputs] = x [rows, inputs] · Wᵀ
    public func multiply(_ x: UnsafePointer<Float>, rows: Int, into y: UnsafeMutablePointer<Float>) {
        anira_matmul(x, Int32(inputs), packed, Int32(rows), Int32(outputs), Int32(inputs), y, Int32(outputs))
    }

    /// y += x · Wᵀ
    func multiplyAdd(_ x: UnsafePointer<Float>, rows: Int, into y: UnsafeMutablePointer<Float>) {
        anira_matmul_add(x, Int32(inputs), packed, Int32(rows), Int32(outputs), Int32(inputs), y, Int32(outputs))
    }

    /// y = silu(x · gateᵀ) ⊙ (x · upᵀ)
    func swiglu(_ x: UnsafePointer<Float>, rows: Int, into y: UnsafeMutablePointer<Float>) {
        anira_matmul_swiglu(x, Int32(inputs), packed, Int32(rows), Int32(outputs), Int32(inputs), y, Int32(outputs))
    }
}
