import ArgumentParser
import Foundation
import KVStore
import Model
import Proto

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure the engine against the machine's own limits; every result is a ratio of one run.",
        discussion: """
            Absolute times drift on shared machines, so limit and engine are measured interleaved, round by round, and \
            the medians of the rounds' ratios are what counts.
            """,
        subcommands: [
            BenchKernels.self, BenchDecode.self, BenchBatch.self, BenchPrefill.self, BenchContext.self,
            BenchStore.self, BenchTransport.self, BenchSuite.self, BenchWeights.self, BenchTrain.self, BenchEcho.self,
        ],
        defaultSubcommand: BenchDecode.self)
}

/// Shape of the measured model: random weights.
struct BenchModel: ParsableArguments {
    @Option(help: "Hidden size H.") var hidden = 512
    @Option(help: "Feed-forward size I.") var intermediate = 2048
    @Option(help: "Attention heads.") var heads = 8
    @Option(help: "Most core iterations K.") var maxDepth = 6
    @Option(help: "Vocabulary.") var vocabulary = 128

    /// Writes the checkpoint into `folder`.
    func write(to folder: String) throws {
        let json = """
            {"vocab_size": \(vocabulary), "hidden_size": \(hidden), "intermediate_size": \(intermediate),
             "num_attention_heads": \(heads), "num_prelude_layers": 1, "num_core_layers": 1, "num_coda_layers": 1,
             "max_depth": \(maxDepth), "max_position_embeddings": 2048, "decider": "online"}
            """
        let configuration = try ModelConfiguration(json: Data(json.utf8), path: "the benchmark's configuration")
        try CheckpointWriter.write(
            configuration, tensors: CheckpointWriter.random(configuration, seed: 1), to: folder)
    }
}

/// A folder for the length of `body`; also gone when a signal ends the process.
func withBenchFolder<R>(_ body: (URL) throws -> R) throws -> R {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("anira-bench-\(getpid())")
    let remove: @Sendable () -> Void = {
        guard FileManager.default.fileExists(atPath: folder.path) else { return }
        do { try FileManager.default.removeItem(at: folder) } catch { tell("cannot remove \(folder.path): \(error)\n") }
    }
    let signals = StopSignals(supervised: false) { signal in
        SuiteUnderTest.interrupt()
        remove()
        _exit(128 + signal)
    }
    defer {
        signals.cancel()
        remove()
    }
    do {
        try Environment.makeFolder(folder.path, advice: "set TMPDIR to a folder that can be written")
        return try body(folder)
    } catch {
        while SuiteUnderTest.isInterrupted { sleep(1) }  // what failed did so because of it
        throw error
    }
}
