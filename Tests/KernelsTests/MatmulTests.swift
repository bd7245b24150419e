import Kernels
import Testing

@Suite struct MatmulTests {
    /// [n, k]: one output, less than a panel, exactly one, several with a remainder.
    static let shapes = [(1, 1), (7, 16), (16, 33), (33, 7), (100, 100), (144, 33)]

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

    @Test(arguments: [1, 3, 6, 13])
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

    @Test(arguments: Product.all)
    func `a row does not depend on how many there are`(product: Product) {
        for (n, k) in Self.shapes {
            let w = values(n * k, seed: 1)
            let packed = product.isPair ? Packed(gate: w, up: w.reversed(), n: n, k: k) : Packed(w, n: n, k: k)
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

    @Test(arguments: Product.all)
    func `what lies between the rows is left alone`(product: Product) {
        let (m, n, k, gap) = (9, 33, 7, 5)
        let w = values(n * k, seed: 1)
        let packed = product.isPair ? Packed(gate: w, up: w, n: n, k: k) : Packed(w, n: n, k: k)
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
