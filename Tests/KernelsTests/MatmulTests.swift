import Kernels
import Testing

@Suite struct MatmulTests {
    /// [n, k]: one output, less than a panel, exactly one, several; of 7 to 11 columns tiles of three leave none, one or two over.
    static let shapes = [(1, 1), (7, 16), (16, 33), (33, 7), (100, 100), (144, 33), (160, 5), (176, 3)]

    @Test(arguments: Array(1...20) + [25, 64])
    func `equals the naive product`(m: Int) {
        for (n, k) in Self.shapes {
            let x = values(m * k, seed: 1)
            let w = values(n * k, seed: 2)
            var expected = [Float](repeating: 0, count: m * n)
            anira_reference_matmul(x, Int32(k), w, Int32(m), Int32(n), Int32(k), &expected, Int32(n))

            let y = Product.all[0](x, Packed(w, n: n, k: k), rows: m, into: values(m * n, seed: 3))
            #expect(largestDifference(y, expected) < 1e-5, "n \(n) k \(k)")

            let sum = Product.all[1](x, Packed(w, n: n, k: k), rows: m, into: y)
            #expect(bits(sum) == bits(y.map { $0 + $0 }), "n \(n) k \(k)")
        }
    }

    @Test(arguments: [1, 2, 3, 6, 13])
    func `gates with silu`(m: Int) {
        for (n, k) in Self.shapes {
            let x = values(m * k, seed: 1)
            let gate = values(n * k, seed: 2)
            let up = values(n * k, seed: 3)
            let zeros = [Float](repeating: 0, count: m * n)
            let g = Product.all[0](x, Packed(gate, n: n, k: k), rows: m, into: zeros)
            let u = Product.all[0](x, Packed(up, n: n, k: k), rows: m, into: zeros)

            let y = Product.all[2](x, Packed(gate: gate, up: up, n: n, k: k), rows: m, into: zeros)
            let expected = zip(g, u).map { g, u in Float(siluInDouble(g)) * u }
            #expect(largestDifference(y, expected) < 1e-5, "n \(n) k \(k)")
        }
    }

    @Test(arguments: Product.all, anira_format.all)
    func `a row does not depend on how many there are`(product: Product, format: anira_format) {
        for (n, k) in Self.shapes {
            let packed = product.packed(values(n * k, seed: 1), n: n, k: k, format)
            for m in Array(2...20) + [25, 64] {
                let x = values(m * k, seed: UInt64(m))
                let y = values(m * n, seed: 2)
                let one: [[Float]] = (0..<m).map { i in
                    product(row(i, of: x, width: k), packed, rows: 1, into: row(i, of: y, width: n))
                }
                #expect(bits(product(x, packed, rows: m, into: y)) == bits(Array(one.joined())), "m \(m) n \(n) k \(k)")
            }
        }
    }

    /// Shapes large enough that the threads really share them.
    @Test(arguments: Product.all, anira_format.all)
    func `the number of threads changes nothing`(product: Product, format: anira_format) {
        defer { anira_set_threads(1) }
        for (m, n, k) in [(1, 1100, 300), (7, 520, 201), (70, 530, 520)] {
            let packed = product.packed(values(n * k, seed: 1), n: n, k: k, format)
            let (x, y) = (values(m * k, seed: 2), values(m * n, seed: 3))
            let found = [1, 2, 3, 5].map { threads in
                anira_set_threads(Int32(threads))
                return bits(product(x, packed, rows: m, into: y))
            }
            #expect(found.allSatisfy { $0 == found[0] }, "m \(m) n \(n) k \(k)")
        }
    }

    @Test(arguments: anira_format.all)
    func `the first outputs of a matrix are a matrix`(format: anira_format) {
        let (n, k) = (100, 33)
        let packed = Packed(values(n * k, seed: 1), n: n, k: k, format)
        for m in [1, 3, 7, 20] {
            let x = values(m * k, seed: 2)
            let whole = Product.all[0](x, packed, rows: m, into: [Float](repeating: 0, count: m * n))
            for few in [1, 16, 37, 99] {
                let y = Product.all[0](x, packed.first(few), rows: m, into: [Float](repeating: 0, count: m * few))
                let expected = (0..<m).flatMap { row($0, of: whole, width: n)[..<few] }
                #expect(bits(y) == bits(expected), "m \(m) of \(few)")
            }
        }
    }

    /// To the nearest bf16, halves to even; zero where no normal float is less.
    private func brief(_ values: [Float]) -> [Float] {
        values.map { value in
            let bits = value.bitPattern
            return value.isNormal ? Float(bitPattern: (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000) : 0
        }
    }

    @Test(arguments: [1, 2, 5, 13])
    func `with bf16 weights rows are rounded too, then it is as in f32`(m: Int) {
        for (n, k) in Self.shapes {
            var (x, w) = (values(m * k, seed: 1), values(n * k, seed: 2))
            (x[0], w[k - 1]) = (.leastNonzeroMagnitude, -.leastNonzeroMagnitude)
            let zeros = [Float](repeating: 0, count: m * n)
            let y = Product.all[0](x, Packed(w, n: n, k: k, ANIRA_BF16), rows: m, into: zeros)
            let expected = Product.all[0](brief(x), Packed(brief(w), n: n, k: k), rows: m, into: zeros)
            #expect(bits(y) == bits(expected), "n \(n) k \(k)")
        }
    }

    @Test func `what is no number stays none with bf16 weights`() {
        for value in [Float.nan, .infinity, -.infinity] {
            let y = Product.all[0]([1, value, 1], Packed([1, 1, 1], n: 1, k: 3, ANIRA_BF16), rows: 1, into: [0])
            #expect(value.isNaN ? y[0].isNaN : y[0] == value)
        }
    }

    /// Integers have none: a row of them came out as that of a model that is sure of nothing.
    @Test func `what is no number stays none with int8 weights`() {
        for value in [Float.nan, .infinity, -.infinity] {
            let y = Product.all[0]([1, value, 1], Packed([1, 1, 1], n: 1, k: 3, ANIRA_INT8), rows: 1, into: [0])
            #expect(!y[0].isFinite)
        }
    }

    @Test(arguments: [1, 2, 5, 13])
    func `int8 weights give the exact product of what was rounded`(m: Int) {
        for (n, k) in Self.shapes {
            let (x, w) = (values(m * k, seed: 1), values(n * k, seed: 2))
            let y = Product.all[0](
                x, Packed(w, n: n, k: k, ANIRA_INT8), rows: m, into: [Float](repeating: 0, count: m * n))
            let limit = min(32767, Float((Int(Int32.max) - 1) / 127 / k))
            for i in 0..<m {
                let input = row(i, of: x, width: k)
                let top = input.map(abs).max()!
                let integers = input.map { Int(($0 * (limit / top)).rounded(.toNearestOrEven)) }
                for j in 0..<n {
                    let weights = row(j, of: w, width: k)
                    let most = weights.map(abs).max()!
                    let bytes = weights.map { Int(($0 * (127 / most)).rounded(.toNearestOrEven)) }
                    let sum = Float(zip(integers, bytes).reduce(0) { $0 + $1.0 * $1.1 })
                    #expect(y[i * n + j] == sum * (top / limit) * (most / 127), "n \(n) k \(k)")
                }
            }
        }
    }

    @Test func `int8 sums cannot overflow`() {
        for k in [512, 2048, 16384] {
            let ones = [Float](repeating: 3, count: k)
            let y = Product.all[0](ones, Packed(ones, n: 1, k: k, ANIRA_INT8), rows: 1, into: [0])
            #expect(abs(y[0] - Float(9 * k)) < Float(9 * k) * 1e-5)
        }
    }

    @Test(arguments: anira_format.all) func `zeros give zeros in every format`(format: anira_format) {
        let (n, k) = (33, 7)
        let (w, zeros) = (values(n * k, seed: 1), [Float](repeating: 0, count: n * k))
        let one = values(n, seed: 2)
        let noInput = Product.all[0](Array(zeros[..<k]), Packed(w, n: n, k: k, format), rows: 1, into: one)
        #expect(noInput.allSatisfy { $0 == 0 })
        let noWeights = Product.all[0](Array(w[..<k]), Packed(zeros, n: n, k: k, format), rows: 1, into: one)
        #expect(noWeights.allSatisfy { $0 == 0 })
    }

    @Test(arguments: Product.all, anira_format.all)
    func `what lies between the rows is left alone`(product: Product, format: anira_format) {
        let (m, n, k, gap) = (9, 33, 7, 5)
        let packed = product.packed(values(n * k, seed: 1), n: n, k: k, format)
        let before = values(m * (n + gap), seed: 2)

        let after = product(values(m * (k + gap), seed: 3), packed, rows: m, gap: gap, into: before)
        for row in 0..<m {
            let between = row * (n + gap) + n..<(row + 1) * (n + gap)
            #expect(after[between] == before[between])
        }
    }

    @Test func `no rows is no work`() {
        let w = Packed([1], n: 1, k: 1)
        #expect(Product.all[0]([1], w, rows: 0, into: [5]) == [5])
    }
}
