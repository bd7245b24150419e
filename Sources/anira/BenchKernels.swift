import ArgumentParser
import COpenBLAS
import Foundation
import Kernels
import Messaging
import Model

struct BenchKernels: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kernels", abstract: "The packed product against OpenBLAS sgemm, one thread, by number of rows.")
    @Option(help: "Inputs K.") var inputs = 512
    @Option(help: "Outputs N.") var outputs = 2048
    @Option(help: "Interleaved rounds.") var rounds = 31
    @Flag(help: "Print the results as JSON.") var json = false

    struct Row: Codable {
        var rows: Int
        var packedGflops: Double
        var sgemmGflops: Double
        /// Median of the rounds' ratios.
        var speedup: Double
    }

    func run() throws {
        openblas_set_num_threads(1)
        let weights = [Float](repeating: 0.5, count: outputs * inputs)
        let matrix = PackedMatrix(weights, outputs: outputs, inputs: inputs)
        let rows = [1, 2, 4, 8, 16, 64].map { measure($0, weights, matrix) }
        if json { return try printJSON(rows) }
        print(
            "[M×\(inputs)]·[\(inputs)×\(outputs)], kernels \(String(cString: anira_kernels_variant())), \(machineName())"
        )
        print("    M   packed GFLOP/s   sgemm GFLOP/s   speed-up")
        for row in rows {
            print(
                String(
                    format: "%5d   %14.1f   %13.1f   %7.1f×", row.rows, row.packedGflops, row.sgemmGflops, row.speedup))
        }
    }

    private func measure(_ m: Int, _ weights: [Float], _ matrix: PackedMatrix) -> Row {
        let x = [Float](repeating: 0.25, count: m * inputs)
        var y = [Float](repeating: 0, count: m * outputs)
        let flops = 2 * Double(m * inputs * outputs)
        var packed: [Double] = []
        var blas: [Double] = []
        let (n, k, count) = (Int32(outputs), Int32(inputs), Int32(m))
        for _ in 0..<rounds {
            packed.append(
                seconds { y.withUnsafeMutableBufferPointer { matrix.multiply(x, rows: m, into: $0.baseAddress!) } })
            blas.append(
                seconds {
                    cblas_sgemm(
                        CblasRowMajor, CblasNoTrans, CblasTrans, count, n, k, 1, x, k, weights, k, 0, &y, n)
                })
        }
        let ratios = zip(blas, packed).map { $0 / $1 }.sorted()
        return Row(
            rows: m, packedGflops: flops / packed.sorted()[rounds / 2] / 1e9,
            sgemmGflops: flops / blas.sorted()[rounds / 2] / 1e9, speedup: ratios[rounds / 2])
    }

    private func seconds(_ body: () -> Void) -> Double {
        let start = monotonicNanoseconds()
        body()
        return Double(monotonicNanoseconds() - start) / 1e9
    }
}
