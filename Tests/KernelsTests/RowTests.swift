import Glibc
import Kernels
import Testing

@Suite struct RowTests {
    static let lengths = [1, 7, 15, 16, 17, 33, 100, 512]

    @Test(arguments: lengths)
    func `rmsnorm equals the formula in double`(h: Int) {
        let x = values(2 * (h + 3), in: -5...5, seed: 1)
        let w = values(h, seed: 2)
        var y = [Float](repeating: 9, count: 2 * (h + 1))
        anira_rmsnorm(x, Int32(h + 3), w, 1e-6, 2, Int32(h), &y, Int32(h + 1))
        for row in 0..<2 {
            let v = x[row * (h + 3)..<row * (h + 3) + h].map(Double.init)
            let meanSquare = v.map { $0 * $0 }.reduce(0, +) / Double(h)
            for i in 0..<h {
                let expected = v[i] / (meanSquare + 1e-6).squareRoot() * Double(w[i])
                #expect(abs(Double(y[row * (h + 1) + i]) - expected) < 1e-5)
            }
            #expect(y[row * (h + 1) + h] == 9)
        }
    }

    @Test(arguments: lengths)
    func `layernorm equals the formula in double`(h: Int) {
        let x = values(h, in: 2...5, seed: 1)
        let (w, b) = (values(h, seed: 2), values(h, seed: 3))
        var y = [Float](repeating: 0, count: h)
        anira_layernorm(x, Int32(h), w, b, 1e-5, 1, Int32(h), &y, Int32(h))
        let mean = x.map(Double.init).reduce(0, +) / Double(h)
        let centred = x.map { Double($0) - mean }
        let variance = centred.map { $0 * $0 }.reduce(0, +) / Double(h)
        for i in 0..<h {
            let expected = centred[i] / (variance + 1e-5).squareRoot() * Double(w[i]) + Double(b[i])
            #expect(abs(Double(y[i]) - expected) < 1e-5)
        }
    }

    @Test(arguments: [2, 12, 16, 24, 64, 128])
    func `rope turns each pair by its angle`(d: Int) {
        let angles = values(d / 2, in: 0...100, seed: 1)
        let x = values(3 * d, seed: 2)
        var y = x
        anira_rope(&y, 3, Int32(d), angles.map(cosf), angles.map(sinf))
        for head in 0..<3 {
            for i in 0..<d / 2 {
                let (a, b) = (x[head * d + i], x[head * d + d / 2 + i])
                let (c, s) = (cosf(angles[i]), sinf(angles[i]))
                #expect(abs(y[head * d + i] - (a * c - b * s)) < 1e-6)
                #expect(abs(y[head * d + d / 2 + i] - (b * c + a * s)) < 1e-6)
            }
        }
    }

    @Test func `silu is within 4 units in the last place of double`() {
        let x = values(4001, in: -85...85, seed: 1) + values(4001, seed: 2)
        var y = x
        anira_silu(&y, Int32(y.count))
        for (x, y) in zip(x, y) {
            let expected = Float(siluInDouble(x))
            #expect(abs(y - expected) <= 4 * expected.ulp, "silu(\(x))")
        }
    }

    @Test func `silu keeps its limits`() {
        var y: [Float] = [-1000, -100, -0.0, 0, 100, 1000, .infinity, .nan]
        anira_silu(&y, Int32(y.count))
        #expect(y[0...3].allSatisfy { abs($0) == 0 })
        #expect(y[4...6] == [100, 1000, .infinity])
        #expect(y[7].isNaN)
    }

    @Test(arguments: lengths)
    func `softmax and logsumexp equal the formulas in double`(n: Int) {
        let x = values(n, in: -90...20, seed: 1)
        let largest = Double(x.max()!)
        let exponentials = x.map { exp(Double($0) - largest) }
        let total = exponentials.reduce(0, +)
        var y = x
        anira_softmax(&y, Int32(n))
        for i in 0..<n {
            // x - max is rounded before the exponential: up to 4e-6 of the result where it is near 100.
            let expected = exponentials[i] / total
            #expect(abs(Double(y[i]) - expected) <= 5e-6 * expected + 1e-37)
        }
        let expected = Float(largest + log(total))
        #expect(abs(anira_logsumexp(x, Int32(n)) - expected) <= 2 * expected.ulp)
    }

    @Test func `masked positions get exactly nothing`() {
        var x: [Float] = [0, -.infinity, -1e30, -200, 0]
        #expect(anira_logsumexp(x, 5) == log(2))
        anira_softmax(&x, 5)
        #expect(x == [0.5, 0, 0, 0, 0.5])
        #expect(anira_logsumexp([-.infinity, -.infinity], 2) == -.infinity)
        #expect(anira_logsumexp([1, .nan, 2], 3).isNaN)
        #expect(anira_logsumexp([.infinity, 0], 2) == .infinity)
    }

    @Test(arguments: lengths)
    func `argmax is the first of equals`(n: Int) {
        for at in [0, n / 2, n - 1] {
            var x = values(n, in: -9 ... -1, seed: 1)
            x[at] = -0.5
            if at + 1 < n { x[n - 1] = -0.5 }
            #expect(anira_argmax(x, Int32(n)) == Int32(at))
        }
    }

    @Test func `an element does not depend on its lane`() {
        let x = values(48, in: -20...20, seed: 1)
        var together = x
        anira_silu(&together, 48)
        let alone = x.map { value in
            var one = [value]
            anira_silu(&one, 1)
            return one[0]
        }
        #expect(bits(together) == bits(alone))
    }
}
