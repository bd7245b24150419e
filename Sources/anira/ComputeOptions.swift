import ArgumentParser
import Foundation
import KVStore
import Kernels
import Model

extension WeightFormat: ExpressibleByArgument {}
extension StoredType: ExpressibleByArgument {}

/// How this process computes.
struct ComputeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How weights are held: f32, bf16 or int8. All services of a suite need the same one.",
            discussion: "bf16 and int8 change logits a little and some depths: `anira bench weights` says how much."))
    var weights = WeightFormat.f32
    @Option(
        help: ArgumentHelp(
            "How cached keys and values are held: f32, f16 or bf16. All services of a suite need the same one.",
            discussion: """
                The short ones halve the cache in memory and on disk; they change logits a little (`anira bench weights` \
                says how much). Sessions written in another type are computed again.
                """))
    var kv = StoredType.f32
    @Option(
        name: .customLong("threads"),
        help: ArgumentHelp(
            "Threads of the products, in each process. Results do not depend on it.",
            discussion: """
                Default: 1; with `anira up` as many as the machine has processors. Workers on one data folder leave \
                processors to each other: a product takes those that no other stage computes on.
                """))
    var givenThreads: Int?

    var threads: Int { givenThreads ?? 1 }

    /// Whether nothing was chosen.
    var isDefault: Bool { weights == .f32 && kv == .f32 && givenThreads == nil }

    func validate() throws {
        guard (1...64).contains(threads) else { throw ValidationError("--threads must be 1…64") }
    }

    /// Starts the threads and opens the checkpoint.
    func checkpoint(_ directory: String) throws -> Checkpoint {
        anira_set_threads(Int32(threads))
        return try Checkpoint(directory: directory, weights: weights)
    }

    /// The same options for a child process.
    var arguments: [String] {
        let processors = min(64, ProcessInfo.processInfo.activeProcessorCount)
        return ["--weights", weights.rawValue, "--kv", kv.rawValue, "--threads", "\(givenThreads ?? processors)"]
    }
}
