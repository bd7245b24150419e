import Glibc
import Kernels
import TestKit
import Testing

func values(_ count: Int, in range: ClosedRange<Float> = -1...1, seed: UInt64) -> [Float] {
    var random = SplitMix(state: seed)
    return (0..<count).map { _ in .random(in: range, using: &random) }
}

func bits(_ floats: [Float]) -> [UInt32] { floats.map(\.bitPattern) }

/// Row `index` of rows of `width` floats.
func row(_ index: Int, of floats: [Float], width: Int) -> [Float] {
    Array(floats[index * width..<(index + 1) * width])
}

func siluInDouble(_ x: Float) -> Double { Double(x) / (1 + exp(-Double(x))) }

func largestDifference(_ a: [Float], _ b: [Float]) -> Float { zip(a, b).map { abs($0 - $1) }.max() ?? 0 }

/// Weights [n, k] in panels.
struct Packed {
    let panels: [UInt8]
    let scales: [Float]
    let format: anira_format
    private(set) var n: Int
    let k: Int

    /// The panels of an f32 matrix.
    var floats: [Float] { panels.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) } }

    init(_ w: [Float], n: Int, k: Int, _ format: anira_format = ANIRA_F32) {
        self.init(format, n, k, matrices: 1) { anira_pack(format, w, Int32(n), Int32(k), $0, $1) }
    }

    init(gate: [Float], up: [Float], n: Int, k: Int, _ format: anira_format = ANIRA_F32) {
        self.init(format, n, k, matrices: 2) { anira_pack_pair(format, gate, up, Int32(n), Int32(k), $0, $1) }
    }

    /// Only the first `outputs`, in the same panels.
    func first(_ outputs: Int) -> Packed {
        var few = self
        few.n = outputs
        return few
    }

    private init(
        _ format: anira_format, _ n: Int, _ k: Int, matrices: Int,
        _ pack: (UnsafeMutableRawPointer?, UnsafeMutablePointer<Float>?) -> Void
    ) {
        var scales = [Float](repeating: 0, count: (n + 15) / 16 * 16 * matrices)
        panels = .init(unsafeUninitializedCapacity: matrices * anira_packed_bytes(format, Int32(n), Int32(k))) {
            pack($0.baseAddress, &scales)
            $1 = matrices * anira_packed_bytes(format, Int32(n), Int32(k))
        }
        self.scales = scales
        self.format = format
        (self.n, self.k) = (n, k)
    }
}

/// A product of kernels.h on m rows, with `gap` floats between the rows of x and of y.
struct Product: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let isPair: Bool
    let kernel: @Sendable (In, Int32, UnsafePointer<anira_matrix>?, Int32, UnsafeMutablePointer<Float>?, Int32) -> Void

    typealias In = UnsafePointer<Float>?

    static let all = [
        Product(testDescription: "matmul", isPair: false) { anira_matmul($0, $1, $2, $3, $4, $5) },
        Product(testDescription: "matmul_add", isPair: false) { anira_matmul_add($0, $1, $2, $3, $4, $5) },
        Product(testDescription: "matmul_swiglu", isPair: true) { anira_matmul_swiglu($0, $1, $2, $3, $4, $5) },
    ]

    func callAsFunction(_ x: [Float], _ w: Packed, rows m: Int, gap: Int = 0, into y: [Float]) -> [Float] {
        var y = y
        w.panels.withUnsafeBytes { panels in
            w.scales.withUnsafeBufferPointer { scales in
                var matrix = anira_matrix(
                    format: w.format, n: Int32(w.n), k: Int32(w.k), panels: panels.baseAddress,
                    scales: scales.baseAddress)
                kernel(x, Int32(w.k + gap), &matrix, Int32(m), &y, Int32(w.n + gap))
            }
        }
        return y
    }

    /// The product with weights of w, its rows in reverse for the second of a pair.
    func packed(_ w: [Float], n: Int, k: Int, _ format: anira_format) -> Packed {
        isPair ? Packed(gate: w, up: w.reversed(), n: n, k: k, format) : Packed(w, n: n, k: k, format)
    }
}

extension anira_format: @retroactive CustomTestStringConvertible {
    static let all = [ANIRA_F32, ANIRA_BF16, ANIRA_INT8]
    public var testDescription: String { ["f32", "bf16", "int8"][Int(rawValue)] }
}
