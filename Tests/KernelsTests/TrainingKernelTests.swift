import Glibc
import Kernels
import Testing

/// The derivatives of training.h against finite differences of naive formulas in Double, and attention over a sequence
/// against the reference of kernels.h, over sizes that are not whole vectors.
@Suite struct TrainingKernelTests {
    static let lengths = [1, 2, 5, 15, 16, 17, 33, 64]

    /// d/dx of Σ dy · f(x), by central differences.
    private func slope(_ x: [Float], _ dy: [Float], _ f: ([Double]) -> [Double]) -> [Double] {
        x.indices.map { place in
            let step = 1e-4
            let sums = [step, -step].map { change in
                var moved = x.map(Double.init)
                moved[place] += change
                return zip(f(moved), dy).reduce(0) { $0 + $1.0 * Double($1.1) }
            }
            return (sums[0] - sums[1]) / (2 * step)
        }
    }

    private func expectClose(_ found: [Float], _ wanted: [Double], _ comment: Comment? = nil) {
        let scale = wanted.reduce(1e-3) { max($0, abs($1)) }
        #expect(zip(found, wanted).allSatisfy { abs(Double($0) - $1) < 2e-4 * scale }, comment)
    }

    @Test(arguments: lengths) func `rmsnorm`(h: Int) {
        let (x, w, dy) = (values(h, seed: 1), values(h, seed: 2), values(h, seed: 3))
        var (dx, dw) = ([Float](repeating: 0, count: h), [Float](repeating: 0, count: h))
        anira_rmsnorm_backward(x, w, dy, 1e-3, 1, Int32(h), &dx, &dw)
        func f(_ x: [Double], _ w: [Double]) -> [Double] {
            let scale = 1 / (x.reduce(0) { $0 + $1 * $1 } / Double(h) + 1e-3).squareRoot()
            return zip(x, w).map { $0 * scale * $1 }
        }
        expectClose(dx, slope(x, dy) { f($0, w.map(Double.init)) })
        expectClose(dw, slope(w, dy) { f(x.map(Double.init), $0) })
    }

    @Test(arguments: lengths) func `layernorm`(h: Int) {
        let (x, w, dy) = (values(h, seed: 1), values(h, seed: 2), values(h, seed: 3))
        var (dx, dw, db) = (
            [Float](repeating: 0, count: h), [Float](repeating: 0, count: h), [Float](repeating: 0, count: h)
        )
        anira_layernorm_backward(x, w, dy, 1e-3, 1, Int32(h), &dx, &dw, &db)
        func f(_ x: [Double], _ w: [Double]) -> [Double] {
            let mean = x.reduce(0, +) / Double(h)
            let scale = 1 / (x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(h) + 1e-3).squareRoot()
            return zip(x, w).map { ($0 - mean) * scale * $1 }
        }
        expectClose(dx, slope(x, dy) { f($0, w.map(Double.init)) })
        expectClose(dw, slope(w, dy) { f(x.map(Double.init), $0) })
        #expect(db == dy)
    }

    @Test(arguments: lengths) func `swiglu and silu`(i: Int) {
        let (gu, dy) = (values(2 * i, in: -4...4, seed: 1), values(i, seed: 2))
        var (y, again) = ([Float](repeating: 0, count: i), [Float](repeating: 0, count: i))
        var dgu = [Float](repeating: 0, count: 2 * i)
        anira_swiglu(gu, 1, Int32(i), &y)
        anira_swiglu_backward(gu, dy, 1, Int32(i), &again, &dgu)
        func silu(_ x: Double) -> Double { x / (1 + exp(-x)) }
        expectClose(y, (0..<i).map { silu(Double(gu[$0])) * Double(gu[i + $0]) })
        #expect(largestDifference(y, again) < 1e-5)
        expectClose(dgu, slope(gu, dy) { gu in (0..<i).map { silu(gu[$0]) * gu[i + $0] } })
        var dx = [Float](repeating: 0, count: i)
        anira_silu_backward(gu, dy, Int32(i), &dx)
        expectClose(dx, slope(Array(gu[..<i]), dy) { $0.map(silu) })
    }

    // MARK: Attention

    struct Shape: Sendable, CustomTestStringConvertible {
        let count, heads, keyValueHeads, d: Int
        let queries: [Int32]
        var testDescription: String { "T \(count), \(heads)/\(keyValueHeads) heads of \(d), \(queries.count) queries" }
    }

    static let shapes = [
        Shape(count: 1, heads: 1, keyValueHeads: 1, d: 2, queries: [0]),
        Shape(count: 5, heads: 2, keyValueHeads: 1, d: 6, queries: [0, 1, 2, 3, 4]),
        Shape(count: 17, heads: 4, keyValueHeads: 2, d: 16, queries: [3, 4, 11, 12, 13, 16]),
        Shape(count: 21, heads: 3, keyValueHeads: 3, d: 20, queries: [20]),
        Shape(count: 33, heads: 2, keyValueHeads: 2, d: 17, queries: (0..<33).map { Int32($0) }),
    ]

    /// out [A, heads d] and lse of the sequence.
    private func attend(_ s: Shape, _ q: [Float], _ kv: [Float]) -> (out: [Float], lse: [Float]) {
        let (a, width) = (s.queries.count, s.heads * s.d)
        var (out, lse) = ([Float](repeating: 0, count: a * width), [Float](repeating: 0, count: a * s.heads))
        var scratch = [Float](
            repeating: .nan, count: anira_sequence_scratch(Int32(a), Int32(s.count), Int32(s.d)))
        anira_sequence_attention(
            q, Int32(width), s.queries, Int32(a), kv, Int32(s.count), Int32(s.heads), Int32(s.keyValueHeads),
            Int32(s.d), 0.4, &scratch, &out, Int32(width), &lse)
        return (out, lse)
    }

    @Test(arguments: shapes) func `attention over a sequence is the reference row by row`(s: Shape) {
        let (width, kvWidth) = (s.heads * s.d, 2 * s.keyValueHeads * s.d)
        let q = values(s.queries.count * width, in: -2...2, seed: 1)
        let kv = values(s.count * kvWidth, in: -2...2, seed: 2)
        let out = attend(s, q, kv).out
        for (index, position) in s.queries.enumerated() {
            var wanted = [Float](repeating: 0, count: width)
            anira_reference_attention(
                row(index, of: q, width: width), kv, kvWidth, 0, s.keyValueHeads * s.d, Array(0...UInt32(position)),
                position + 1, Int32(s.heads), Int32(s.keyValueHeads), Int32(s.d), 0.4, &wanted)
            #expect(largestDifference(row(index, of: out, width: width), wanted) < 2e-5)
        }
    }

    @Test(arguments: shapes) func `attention's derivative is that of the formula`(s: Shape) {
        let (a, width, kvWidth) = (s.queries.count, s.heads * s.d, 2 * s.keyValueHeads * s.d)
        let (q, kv) = (values(a * width, seed: 1), values(s.count * kvWidth, seed: 2))
        let dout = values(a * width, seed: 3)
        var (dq, dkv) = ([Float](repeating: .nan, count: q.count), [Float](repeating: .nan, count: kv.count))
        var scratch = [Float](
            repeating: .nan, count: anira_sequence_scratch(Int32(a), Int32(s.count), Int32(s.d)))
        anira_sequence_attention_backward(
            q, Int32(width), s.queries, Int32(a), kv, Int32(s.count), Int32(s.heads), Int32(s.keyValueHeads),
            Int32(s.d), 0.4, &scratch, attend(s, q, kv).lse, dout, Int32(width), &dq, &dkv)
        let places = Array(stride(from: 0, to: q.count, by: max(1, q.count / 7)))
        for place in places {
            expectSlope(dq[place], q, place) { naive(s, $0, kv.map(Double.init), dout) }
        }
        for place in stride(from: 0, to: kv.count, by: max(1, kv.count / 13)) {
            expectSlope(dkv[place], kv, place) { naive(s, q.map(Double.init), $0, dout) }
        }
    }

    private func expectSlope(_ found: Float, _ x: [Float], _ place: Int, _ f: ([Double]) -> Double) {
        let sums = [1e-4, -1e-4].map { change in
            var moved = x.map(Double.init)
            moved[place] += change
            return f(moved)
        }
        #expect(abs(Double(found) - (sums[0] - sums[1]) / 2e-4) < 1e-4)
    }

    /// Σ dout · attention(q, kv).
    private func naive(_ s: Shape, _ q: [Double], _ kv: [Double], _ dout: [Float]) -> Double {
        let (width, kvWidth, group) = (s.heads * s.d, 2 * s.keyValueHeads * s.d, s.heads / s.keyValueHeads)
        var total = 0.0
        for (index, position) in s.queries.enumerated() {
            for head in 0..<s.heads {
                let (at, key) = (index * width + head * s.d, head / group * s.d)
                let value = key + s.keyValueHeads * s.d
                let scores = (0...Int(position)).map { j in
                    exp((0..<s.d).reduce(0) { $0 + q[at + $1] * kv[j * kvWidth + key + $1] } * 0.4)
                }
                let sum = scores.reduce(0, +)
                for (j, score) in scores.enumerated() {
                    for c in 0..<s.d { total += score / sum * kv[j * kvWidth + value + c] * Double(dout[at + c]) }
                }
            }
        }
        return total
    }

    // MARK: AdamW

    @Test(arguments: lengths) func `adamw follows its formula`(n: Int) {
        let (start, gradient) = (values(n, seed: 1), values(n, seed: 2))
        var (w, m, v) = (start, [Float](repeating: 0.1, count: n), [Float](repeating: 0.2, count: n))
        anira_adamw(&w, gradient, &m, &v, n, 0.5, 0.01, 0.9, 0.99, 1e-8, 0.1, 0.19, 0.02)
        for i in 0..<n {
            let g = Double(gradient[i]) * 0.5
            let (first, second) = (0.09 + 0.1 * g, 0.198 + 0.01 * g * g)
            let wanted = Double(start[i]) * (1 - 0.001) - 0.01 * first / 0.19 / ((second / 0.02).squareRoot() + 1e-8)
            #expect(abs(Double(w[i]) - wanted) < 1e-5)
            #expect(abs(Double(m[i]) - first) < 1e-6 && abs(Double(v[i]) - second) < 1e-6)
        }
    }
}
