import Glibc
import Kernels
import Testing

/// SplitMix64: the same numbers from the same seed on every machine.
struct Seeded: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

func values(_ count: Int, in range: ClosedRange<Float> = -1...1, seed: UInt64) -> [Float] {
    var random = Seeded(state: seed)
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
    let floats: [Float]
    let n: Int
    let k: Int

    init(_ w: [Float], n: Int, k: Int) {
        floats = .init(unsafeUninitializedCapacity: anira_packed_count(Int32(n), Int32(k))) { buffer, count in
            anira_pack(w, Int32(n), Int32(k), buffer.baseAddress)
            count = anira_packed_count(Int32(n), Int32(k))
        }
        (self.n, self.k) = (n, k)
    }

    init(gate: [Float], up: [Float], n: Int, k: Int) {
        floats = .init(unsafeUninitializedCapacity: 2 * anira_packed_count(Int32(n), Int32(k))) { buffer, count in
            anira_pack_pair(gate, up, Int32(n), Int32(k), buffer.baseAddress)
            count = 2 * anira_packed_count(Int32(n), Int32(k))
        }
        (self.n, self.k) = (n, k)
    }
}

/// A product of kernels.h on m rows, with `gap` floats between the rows of x and of y.
struct Product: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let isPair: Bool
    let kernel: @Sendable (In, Int32, In, Int32, Int32, Int32, UnsafeMutablePointer<Float>?, Int32) -> Void

    typealias In = UnsafePointer<Float>?

    static let all = [
        Product(testDescription: "matmul", isPair: false) { anira_matmul($0, $1, $2, $3, $4, $5, $6, $7) },
        Product(testDescription: "matmul_add", isPair: false) { anira_matmul_add($0, $1, $2, $3, $4, $5, $6, $7) },
        Product(testDescription: "matmul_swiglu", isPair: true) { anira_matmul_swiglu($0, $1, $2, $3, $4, $5, $6, $7) },
    ]

    func callAsFunction(_ x: [Float], _ w: Packed, rows m: Int, gap: Int = 0, into y: [Float]) -> [Float] {
        var y = y
        kernel(x, Int32(w.k + gap), w.floats, Int32(m), Int32(w.n), Int32(w.k), &y, Int32(w.n + gap))
        return y
    }
}
