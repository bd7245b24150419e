import ArgumentParser
import Foundation
import Model
import Training

struct BenchTrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train", abstract: "Whole training steps on random rows, in tokens a second.",
        discussion: "Benchmarks/training measures PyTorch on the same shapes.")
    @Option(help: "early or online.") var variant = "online"
    @Option(help: "Hidden size H.") var hidden = 64
    @Option(help: "Feed-forward size I.") var intermediate = 192
    @Option(help: "Hidden size of the decider; default: I.") var deciderIntermediate: Int?
    @Option(help: "Attention heads.") var heads = 4
    @Option(help: "Most core iterations K.") var maxDepth = 6
    @Option(help: "Vocabulary.") var vocabulary = 32
    @Option(help: "Rows of a step.") var batch = 256
    @Option(help: "Tokens of a row.") var length = 16
    @Option(help: "Tokens a thread has in memory at once.") var microBatch = 2048
    @Option(help: "Threads.") var threads = 2
    @Option(help: "Steps, after one that is not counted.") var steps = 10
    @Flag(help: "Print the results as JSON.") var json = false

    func run() throws {
        guard let kind = ModelConfiguration.DeciderKind(rawValue: variant) else {
            throw ValidationError("--variant must be early or online")
        }
        guard (2...1 << 20).contains(length), (1...1_000_000).contains(steps), (1...1 << 24).contains(vocabulary) else {
            throw ValidationError("--length must be 2…1048576, --steps 1…1000000, --vocabulary 1…16777216")
        }
        var c = Preset.small.configuration(.mano, kind)
        (c.hiddenSize, c.intermediateSize, c.deciderIntermediateSize) = (
            hidden, intermediate, deciderIntermediate ?? intermediate
        )
        (c.heads, c.keyValueHeads, c.maxDepth, c.maxLength) = (heads, heads, maxDepth, max(length, c.maxLength))
        (c.batch, c.microBatch, c.threads, c.depthBias) = (batch, microBatch, threads, 0)
        try c.check()
        let found = try TrainingMeasurement(c, vocabulary: vocabulary, length: length, steps: steps)
        let sorted = found.tokensPerSecond.sorted()
        let result = Result(
            tokensPerSecond: sorted[sorted.count / 2], slowest: sorted[0], fastest: sorted[sorted.count - 1],
            peakBytes: found.peakBytes)
        if json { return try printJSON(BenchReport(result)) }
        let rows = "\(batch) rows of \(length), \(threads) threads"
        print(heading("\(variant), H \(hidden), I \(intermediate), K \(maxDepth), \(rows)"))
        print(
            "tokens/s  median \(Int(result.tokensPerSecond)), \(Int(result.slowest))…\(Int(result.fastest)) over "
                + "\(steps) steps; peak memory \(result.peakBytes >> 20) MiB")
    }

    private struct Result: Encodable {
        let tokensPerSecond, slowest, fastest: Double
        let peakBytes: Int

        enum CodingKeys: String, CodingKey {
            case slowest, fastest
            case tokensPerSecond = "tokens_per_second"
            case peakBytes = "peak_bytes"
        }
    }
}
