import ArgumentParser
import COpenBLAS
import Foundation
import Kernels
import Messaging
import Model

struct BenchKernels: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kernels",
        abstract:
            "The packed products of every weight format against OpenBLAS sgemm and the machine's peak, one thread.")
    @Option(help: "Inputs K.") var inputs = 512
    @Option(help: "Outputs N.") var outputs = 2048
    @Option(help: "Interleaved rounds.") var rounds = 31
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var rows: Int
        /// Medians over the rounds.
        var sgemmGflops: Double
        var gflops: [String: Double]
        /// Microseconds of a product, by format.
        var p50: [String: Double]
        var p99: [String: Double]
        /// f32: median of the rounds' ratios to sgemm, and share of the peak.
        var overSgemm: Double
        var shareOfPeak: Double
    }

    struct Report: Codable {
        /// sgemm of 1024³, and multiply-adds in registers alone: the installed BLAS may not know this CPU's widest ones.
        var peakGflops: Double
        var multiplyAddGflops: Double
        var products: [Row]
    }

    func validate() throws {
        guard (1...16384).contains(inputs), (1...16384).contains(outputs), rounds > 0 else {
            throw ValidationError("--inputs and --outputs must be 1…16384, --rounds above 0")
        }
    }

    func run() throws {
        openblas_set_num_threads(1)
        let weights = (0..<(outputs * inputs)).map { Float($0 % 97) / 97 - 0.5 }
        let matrices = WeightFormat.allCases.map {
            ($0, PackedMatrix(weights, outputs: outputs, inputs: inputs, format: $0))
        }
        let peak = (0..<5).map { _ in sgemmPeak(1024) }.max() ?? 0
        let rows = [1, 2, 4, 8, 16, 64].map { measure($0, weights, matrices, peak) }
        let multiplyAdds = (0..<5).map { _ in multiplyAddPeak() }.max() ?? 0
        let report = Report(
            peakGflops: max(peak, sgemmPeak(1024)), multiplyAddGflops: multiplyAdds, products: rows)
        if json { return try printJSON(BenchReport(report)) }
        print(heading("[M×\(inputs)]·[\(inputs)×\(outputs)], one thread"))
        print(
            String(
                format: "peak %.0f GFLOP/s (sgemm 1024³), %.0f by multiply-adds in registers alone; GFLOP/s:",
                report.peakGflops, report.multiplyAddGflops))
        print("    M    sgemm      f32     bf16     int8   f32 over sgemm   of the peak   f32 p50, p99 µs")
        for row in rows {
            let found = WeightFormat.allCases.map { String(format: "%9.1f", row.gflops[$0.rawValue] ?? 0) }.joined()
            print(
                String(
                    format: "%5d%9.1f%@%16.1f×%13.0f%%%10.0f%8.0f", row.rows, row.sgemmGflops, found, row.overSgemm,
                    100 * row.shareOfPeak, row.p50["f32"] ?? 0, row.p99["f32"] ?? 0))
        }
    }

    private func measure(
        _ m: Int, _ weights: [Float], _ matrices: [(WeightFormat, PackedMatrix)], _ peak: Double
    ) -> Row {
        let x = (0..<(m * inputs)).map { Float($0 % 89) / 89 - 0.5 }
        var y = [Float](repeating: 0, count: m * outputs)
        let flops = 2 * Double(m * inputs * outputs)
        var blas: [Double] = []
        var packed: [String: [Double]] = [:]
        let (n, k, count) = (Int32(outputs), Int32(inputs), Int32(m))
        for _ in 0..<rounds {
            for (format, matrix) in matrices {
                packed[format.rawValue, default: []].append(
                    seconds { y.withUnsafeMutableBufferPointer { matrix.multiply(x, rows: m, into: $0.baseAddress!) } })
            }
            blas.append(
                seconds {
                    cblas_sgemm(
                        CblasRowMajor, CblasNoTrans, CblasTrans, count, n, k, 1, x, k, weights, k, 0, &y, n)
                })
        }
        let f32 = packed["f32"] ?? []
        let gflops = packed.mapValues { flops / median($0) / 1e9 }
        return Row(
            rows: m, sgemmGflops: flops / median(blas) / 1e9, gflops: gflops,
            p50: packed.mapValues { 1e6 * median($0) }, p99: packed.mapValues { 1e6 * percentile($0, 99) },
            overSgemm: median(zip(blas, f32).map { $0 / $1 }), shareOfPeak: (gflops["f32"] ?? 0) / peak)
    }
}

/// GFLOP/s of OpenBLAS sgemm on size³, one thread: the machine's peak for float32.
func sgemmPeak(_ size: Int) -> Double {
    let (a, n) = ([Float](repeating: 0.5, count: size * size), Int32(size))
    var c = a
    openblas_set_num_threads(1)
    let time = seconds { cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1, a, n, a, n, 0, &c, n) }
    return 2 * Double(size * size * size) / time / 1e9
}

/// GFLOP/s of multiply-adds in registers, one thread: the CPU's own limit.
private func multiplyAddPeak() -> Double {
    var operations = 0.0
    let time = seconds { operations = anira_multiply_adds(2_000_000) }
    return operations / time / 1e9
}
