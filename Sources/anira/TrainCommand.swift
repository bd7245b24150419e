import ArgumentParser
import Foundation
import Logging
import Model
import Tasks
import Training

struct Train: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Train a model on a task of known difficulty.", subcommands: [TrainRun.self, TrainVerify.self],
        defaultSubcommand: TrainRun.self)
}

struct TrainRun: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Train, or go on training, a model (the default).",
        discussion: """
            A preset gives every setting; the options below override single ones. The folder --out holds the \
            checkpoint, ready to be served with `anira up --model`, the state to resume from, the resolved \
            configuration and a record of the run (metrics.jsonl). `2: 99% d3.1` is accuracy and \
            mean answer depth of difficulty 2 on validation rows. Ctrl-C ends the step that is \
            running, saves and exits with 130; pressed again, it exits at once, and --resume \
            goes on from the last saved state.
              anira train --task mano --variant online --out runs/out/mano-online
              anira train --resume --out runs/out/mano-online
            """)
    @Option(help: "mano, brevo, depo or lano.") var task: String?
    @Option(help: "early (ANIRA-E) or online (ANIRA-O).") var variant: String?
    @Option(help: "paper or small (the default).") var preset: String?
    @Option(help: "Folder of the run.") var out: String
    @Flag(help: "Go on with the run in --out.") var resume = false
    @Option(help: "Checkpoint of the same shape to start from; its decider's output is set anew.") var from: String?
    @OptionGroup(title: "Settings") var overrides: TrainingOverrides

    func run() throws {
        let resolved = try resolve()
        let initial = try from.map { try Checkpoint(directory: $0) }
        let trainer = try Trainer(resolved, directory: out, resume: resume, initial: initial)
        let stop = StopRequest()
        let signals = StopSignals(supervised: false) { stop.raise(by: $0) }
        defer { signals.cancel() }
        tell("\(describe(trainer))\n")
        let line = ProgressLine()
        let ending: Trainer.Ending
        do {
            defer { line.end() }
            ending = try trainer.run(shouldStop: { stop.isRaised }, report: { line.show($0) })
        }
        switch ending {
        case .finished: print("finished: serve it with  anira up --model \(out)")
        case .stopped(let step):
            print("stopped and saved at step \(step); go on with  anira train --resume --out \(out)")
            throw ExitCode(128 + signals.last)
        }
    }

    private func describe(_ trainer: Trainer) -> String {
        let c = trainer.configuration
        let millions = String(format: "%.2f", Double(trainer.parameters) / 1e6)
        let threads = c.threads == 1 ? "one thread" : "\(c.threads) threads"
        let from = trainer.step > 0 ? ", from step \(trainer.step)" : ""
        return "training \(c.task.rawValue), \(c.variant.rawValue), \(millions) million parameters: "
            + "\(c.steps) steps of \(c.batch) rows with \(threads), in \(out)\(from)"
            + c.remarks.map { "\nnote: \($0)" }.joined()
    }

    private func resolve() throws -> TrainingConfiguration {
        if resume { return try resumed() }
        // With training.json alone a run has not begun: it was stopped before it saved a state.
        let files = ["state.safetensors", "model.safetensors", "config.json", "metrics.jsonl"]
        if let found = files.first(where: { FileManager.default.fileExists(atPath: "\(out)/\($0)") }) {
            throw TrainingError(
                "\(out) already holds a run or model (\(found)); add --resume to go on with a run, "
                    + "or choose another --out")
        }
        guard let task, let name = TaskName(rawValue: task) else {
            throw ValidationError("--task must be one of \(TaskName.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        guard let variant, let kind = ModelConfiguration.DeciderKind(rawValue: variant) else {
            throw ValidationError("--variant must be early or online")
        }
        guard let preset = Preset(rawValue: preset ?? "small") else {
            throw ValidationError("--preset must be paper or small")
        }
        var configuration = preset.configuration(name, kind)
        try overrides.apply(to: &configuration)
        configuration.startedFrom = from
        return configuration
    }

    /// The stored configuration with the settings given now, which may not change the model or its task.
    private func resumed() throws -> TrainingConfiguration {
        guard task == nil, variant == nil, preset == nil, from == nil else {
            throw ValidationError(
                "--task, --variant, --preset and --from belong to a new run; leave them out to resume")
        }
        let stored = try TrainingConfiguration(folder: out)
        var configuration = stored
        try overrides.apply(to: &configuration)
        guard configuration.hasSameModel(as: stored) else {
            throw ValidationError("a run cannot change its model or task options when it goes on; start another --out")
        }
        return configuration
    }
}

/// Whether a signal has asked to stop.
private final class StopRequest: @unchecked Sendable {  // guarded by the lock
    private let lock = NSLock()
    private var raised = false
    var isRaised: Bool { lock.withLock { raised } }

    /// The second time it ends the process: every file is replaced whole, so that what was saved last is in place.
    func raise(by signal: Int32) {
        lock.withLock {
            if raised { _exit(128 + signal) }
            raised = true
        }
        tell("\nstopping after this step; a second signal ends it at once, without saving\n")
    }
}

/// On a terminal one line that is drawn over, and above it a line for every evaluation; elsewhere a line for every
/// evaluation, or when a minute has passed.
private final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) != 0
    private var shown = Date()
    private var start = Date()
    private var firstStep: Int?

    func show(_ progress: Trainer.Progress) {
        let record = progress.record
        let validation = record.validation.map(Self.summary)
        let text =
            "step \(record.step)/\(progress.steps)\(remaining(progress))  loss \(number(record.loss, 4))  accuracy "
            + "\(number(record.accuracy, 3))  depth \(number(record.meanDepth, 2))  λ \(number(Double(record.lambda), 3))"
            + "\(progress.saving ? "" : " (learning)")  \(Int(record.tokensPerSecond)) tokens/s"
        let silence = Date().timeIntervalSince(shown)
        if isTerminal, silence > 0.1 || validation != nil {
            if let validation { tell("\r\u{1B}[Kstep \(record.step)  \(validation)\n") }
            tell("\r\u{1B}[K" + text.prefix(terminalColumns(STDERR_FILENO) - 1))
        } else if !isTerminal, silence > 60 || validation != nil {
            tell(text + (validation.map { "  \($0)" } ?? "") + "\n")
        } else {
            return
        }
        shown = Date()
    }

    func end() { if isTerminal, firstStep != nil { tell("\n") } }

    private func remaining(_ progress: Trainer.Progress) -> String {
        let step = progress.record.step
        guard let firstStep else {
            firstStep = step
            start = Date()
            return ""
        }
        let seconds = Date().timeIntervalSince(start) / Double(max(step - firstStep, 1)) * Double(progress.steps - step)
        return seconds < 90 ? "  \(Int(seconds)) s left" : "  \(Int(seconds / 60)) min left"
    }

    /// Accuracy and depth of each difficulty: `1: 99% d2.1`.
    private static func summary(_ found: [String: MetricsRecord.Difficulty]) -> String {
        found.sorted { Int($0.key) ?? 0 < Int($1.key) ?? 0 }.map { label, entry in
            "\(label): \(Int((entry.accuracy * 100).rounded()))% d\(String(format: "%.1f", entry.answerDepth))"
        }.joined(separator: "  ")
    }

    private func number(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
}
