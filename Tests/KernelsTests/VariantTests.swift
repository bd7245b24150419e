import Kernels
import TestKit
import Testing

/// The variant in use is global, so these run one after the other. Tests of other suites may meanwhile find
/// themselves on any variant, which by the contract they cannot notice.
@Suite(.serialized) struct VariantTests {
    /// Results of `kernel` on every variant this CPU has.
    func onEachVariant<Result>(_ kernel: () -> Result) -> [Result] {
        defer { anira_kernels_select(nil) }
        let names: [String] = ["portable", "avx2", "avx512", "avx512vnni", "avx512bf16"]
        return names.compactMap { name in anira_kernels_select(name) == 0 ? nil : kernel() }
    }

    func expectSame(_ kernel: () -> [Float]) {
        let results = onEachVariant { bits(kernel()) }
        #expect(results.allSatisfy { $0 == results[0] })
    }

    @Test func `the portable variant is always there, an unknown one never`() {
        #expect(onEachVariant { String(cString: anira_kernels_variant()) }.first == "portable")
        #expect(anira_kernels_select("abacus") == 0)
    }

    @Test(arguments: Product.all, anira_format.all)
    func `products agree`(product: Product, format: anira_format) {
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 26, 40] {
            for (n, k) in MatmulTests.shapes {
                let packed = product.packed(values(n * k, seed: 1), n: n, k: k, format)
                expectSame { product(values(m * k, seed: 2), packed, rows: m, into: values(m * n, seed: 3)) }
            }
        }
    }

    @Test(arguments: RowTests.lengths)
    func `rows agree`(n: Int) {
        let (x, w, b) = (values(n, in: -30...30, seed: 1), values(n, seed: 2), values(n, seed: 3))
        let length = Int32(n)
        func changed(_ kernel: (inout [Float]) -> Void) -> [Float] {
            var y = x
            kernel(&y)
            return y
        }
        expectSame { changed { anira_rmsnorm(x, length, w, 1e-6, 1, length, &$0, length) } }
        expectSame { changed { anira_layernorm(x, length, w, b, 1e-5, 1, length, &$0, length) } }
        expectSame { changed { anira_rope(&$0, 1, length, w, b) } }
        expectSame { changed { anira_silu(&$0, length) } }
        expectSame { changed { anira_softmax(&$0, length) } }
        expectSame { [anira_logsumexp(x, length), Float(anira_argmax(x, length))] }
    }

    @Test(arguments: [12, 64, 80], [1, 6, 37])
    func `attention agrees`(d: Int, count: Int) {
        let attention = AttentionCase(heads: 4, kvHeads: 2, d: d, count: count)
        expectSame { attention.fast(cache: attention.cache) }
    }

    /// So many queries over one list that it is packed: tiles of every size, whole and cut.
    @Test(arguments: [12, 16, 32, 64, 80], [5, 17])
    func `attention of a chunk agrees`(d: Int, queries: Int) {
        let attention = AttentionCase(heads: 4, kvHeads: 2, d: d, count: 70)
        let rows = (0..<queries).map { AttentionCase(heads: 4, kvHeads: 2, d: d, count: 70, seed: UInt64($0)).query }
        expectSame { attention.together(rows, counts: (0..<queries).map { Int32(70 - $0) }) }
    }

    @Test(arguments: [0, 1, 7, 8, 9, 1000, 1007, 1008, 2047, 4112])
    func `checksums agree, whole or in parts`(length: Int) {
        var random = SplitMix(state: 1)
        let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
        let results = onEachVariant { anira_crc32c(0, bytes, length) }
        let inParts = onEachVariant {
            anira_crc32c(anira_crc32c(0, bytes, length / 3), Array(bytes[(length / 3)...]), length - length / 3)
        }
        #expect(Set(results + inParts).count == 1)
    }

    @Test func `the checksum is Castagnoli's`() {
        #expect(onEachVariant { anira_crc32c(0, "123456789", 9) }.allSatisfy { $0 == 0xe306_9283 })
    }

    @Test(arguments: [3, 16, 37]) func `derivatives agree`(n: Int) {
        let (x, w, dy, length) = (values(2 * n, seed: 1), values(n, seed: 2), values(n, seed: 3), Int32(n))
        expectSame {
            var (dx, dw, db) = (values(n, seed: 4), values(n, seed: 5), values(n, seed: 6))
            anira_rmsnorm_backward(x, w, dy, 1e-5, 1, length, &dx, &dw)
            anira_layernorm_backward(x, w, dy, 1e-5, 1, length, &dx, &dw, &db)
            var (y, dgu) = (dx, x)
            anira_swiglu_backward(x, dy, 1, length, &y, &dgu)
            anira_adamw(&y, dx, &dw, &db, n, 1, 0.1, 0.9, 0.99, 1e-8, 0, 0.5, 0.5)
            return dx + dw + y + dgu
        }
    }
}
