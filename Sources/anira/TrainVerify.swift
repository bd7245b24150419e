import ArgumentParser
import Foundation
import Model
import Training

struct TrainVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare one training step with another implementation's: losses, depths, every gradient.",
        discussion: "Exit code 1 when a loss or gradient is more than \(StepFile.tolerance) off or a depth differs.")
    @Option(help: "Checkpoint folder.") var model: String
    @Option(help: "The step: a safetensors file with tokens, valid, answer, noise, depths, losses and gradients.")
    var step: String
    @Option(help: "Threads.") var threads = 2
    @Flag(help: "Print the comparison as JSON.") var json = false

    func run() throws {
        guard (1...64).contains(threads) else { throw ValidationError("--threads must be 1…64") }
        let checkpoint = try Checkpoint(directory: model)
        let found = try StepFile(path: step, for: checkpoint).verify(checkpoint, threads: threads)
        if json {
            try printJSON(found)
        } else {
            show(found)
        }
        guard found.passes else { throw ExitCode.failure }
    }

    private func show(_ found: StepFile.Comparison) {
        print(String(format: "loss.ce  %.6f, expected %.6f", found.ce, found.expectedCE))
        print(String(format: "loss.kl  %.6f, expected %.6f", found.kl, found.expectedKL))
        print("depths   \(found.depthsDiffering) differ")
        print(String(format: "exit distribution  %.1e at most", found.distributionError))
        print("relative error of the gradient of")
        for gradient in found.gradients {
            let mark = gradient.error <= StepFile.tolerance ? " " : "!"
            print("\(mark) \(String(format: "%.1e", gradient.error))  \(gradient.name)")
        }
        print(found.passes ? "all within \(StepFile.tolerance)" : "not within \(StepFile.tolerance)")
    }
}
