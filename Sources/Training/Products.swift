import COpenBLAS

// Matrix products of training, by OpenBLAS. Row-major; letters: M rows, N outputs, K inputs.
//
// Each lane calls from its own thread, so the library itself is kept to one thread: its sums then run in the same order
// every time.

enum Products {
    /// Keeps OpenBLAS from starting threads of its own. To be called before the first product.
    static func useOneThread() { openblas_set_num_threads(1) }

    /// y [M, N] = x [M, K] · wᵀ, w [N, K]; added to y when `adding`.
    static func forward(
        _ x: UnsafePointer<Float>, _ w: UnsafePointer<Float>, m: Int, n: Int, k: Int,
        into y: UnsafeMutablePointer<Float>, adding: Bool = false
    ) {
        guard m > 0 else { return }
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, Int32(m), Int32(n), Int32(k), 1, x, Int32(k), w, Int32(k),
            adding ? 1 : 0, y, Int32(n))
    }

    /// dx [M, K] = dy [M, N] · w, w [N, K]; added to dx when `adding`.
    static func inputGradient(
        _ dy: UnsafePointer<Float>, _ w: UnsafePointer<Float>, m: Int, n: Int, k: Int,
        into dx: UnsafeMutablePointer<Float>, adding: Bool = false
    ) {
        guard m > 0 else { return }
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, Int32(m), Int32(k), Int32(n), 1, dy, Int32(n), w, Int32(k),
            adding ? 1 : 0, dx, Int32(k))
    }

    /// dw [N, K] += dyᵀ · x, dy [M, N], x [M, K].
    static func addWeightGradient(
        _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, m: Int, n: Int, k: Int,
        into dw: UnsafeMutablePointer<Float>
    ) {
        guard m > 0 else { return }
        cblas_sgemm(
            CblasRowMajor, CblasTrans, CblasNoTrans, Int32(n), Int32(k), Int32(m), 1, dy, Int32(n), x, Int32(k), 1, dw,
            Int32(k))
    }
}
