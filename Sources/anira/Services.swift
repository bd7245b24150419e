import ArgumentParser
import CodaService
import DeciderService
import Foundation
import KVStore
import Kernels
import Logging
import Messaging
import Model
import Proto
import RecurrentCoreService
import Router
import Synchronization
import Worker

extension Durability: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}

/// Options every service takes.
struct ServiceOptions: ParsableArguments {
    @Option(help: "Checkpoint folder: config.json, model.safetensors, vocab.json.") var model: String
    @Option(help: "Data folder: sessions, answers and the key-value store.") var data = "anira-data"
    @Option(help: "Least severe log lines shown: trace, debug, info, notice, warning, error.")
    var logLevel = Logger.Level.notice
    @Flag(help: .hidden) var supervised = false

    func log(_ label: String) -> Logger {
        let level = logLevel
        return Logger(label: label) { label in
            var handler = StreamLogHandler.standardError(label: "\(label)[\(getpid())]")
            handler.logLevel = level
            return handler
        }
    }

    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        guard !model.isEmpty, !data.isEmpty else { throw ValidationError("--model and --data must not be empty") }
    }

    func checkpoint() throws -> Checkpoint { try compute.checkpoint(model) }
}

struct TraceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Write a Chrome trace of every request, for Perfetto (docs/profiling.md).", valueName: "file"))
    var trace: String?
}

/// What a service keeps on disk.
struct KeepingOptions: ParsableArguments {
    @Option(help: "What survives: process (kill -9) or power (a power cut too).") var durability = Durability.process
    @Flag(help: "Keep nothing on disk.") var memoryOnly = false

    var arguments: [String] { ["--durability", durability.rawValue] + (memoryOnly ? ["--memory-only"] : []) }

    func validate() throws {
        guard !memoryOnly || durability == .process else {
            throw ValidationError("--memory-only keeps nothing, --durability power everything: give one of them")
        }
    }
}

/// How much the Router takes on.
struct TrafficOptions: ParsableArguments {
    @Option(help: "Most requests running at once; more are answered OVERLOADED.") var maxRequests = 1024
    @Option(
        help: "Most seconds of work taken on, estimated from depths and the measured rate; more is answered OVERLOADED."
    )
    var maxBacklog = 600.0
    @Option(help: "Most positions of one prompt chunk.") var chunk = 64

    var arguments: [String] {
        ["--max-requests", "\(maxRequests)", "--max-backlog", "\(maxBacklog)", "--chunk", "\(chunk)"]
    }

    func validate() throws {
        guard maxRequests > 0, maxBacklog > 0, maxBacklog <= 1e9, chunk > 0 else {
            throw ValidationError("--max-requests, --max-backlog (at most 1000000000) and --chunk must be above 0")
        }
    }
}

/// How large a worker's steps are.
struct RowOptions: ParsableArguments {
    @Option(help: "Most rows of a step that belong to sessions that decode.") var maxRows = 32
    @Option(
        help: """
            Most rows of prompts beside them, for which those sessions wait. Decider and coda take whole chunks \
            (--chunk of the Router), at least one.
            """)
    var promptRows = 64

    var limits: RowLimits { RowLimits(decoding: maxRows, prompts: promptRows) }
    var arguments: [String] { ["--max-rows", "\(maxRows)", "--prompt-rows", "\(promptRows)"] }

    func validate() throws {
        guard (1...65536).contains(maxRows), (1...65536).contains(promptRows) else {
            throw ValidationError("--max-rows and --prompt-rows must be 1…65536")
        }
    }
}

/// Options of the three workers.
struct WorkerOptions: ParsableArguments {
    @OptionGroup var service: ServiceOptions
    @Option(help: "The Router's worker endpoint.") var connect = "tcp://127.0.0.1:5556"
    @Option(
        help: ArgumentHelp(
            "Where other workers reach this one, or 'none': then rows come by way of the Router. Default: beside the "
                + "--connect file, a free port for a local --connect address, otherwise none.",
            valueName: "endpoint"))
    var inbox: String?
    @Option(
        help: ArgumentHelp(
            "What other workers connect to when that is not what --inbox binds: tcp://core:5557 for tcp://*:5557.",
            valueName: "endpoint"))
    var inboxAddress: String?
    @Option(help: "Name, stable across restarts: it owns a shard of the store. Default: the stage and 0.")
    var name: String?
    @OptionGroup var keeping: KeepingOptions
    @Option(name: .customLong("resident-mib"), help: "Memory for cached keys and values, in MiB.") var residentMiB =
        1024
    @OptionGroup var rows: RowOptions

    func validate() throws {
        try checkResident(residentMiB)
        try checkEndpoint(connect, "--connect")
        if let inbox, inbox != "none" { try checkEndpoint(inbox, "--inbox") }
        // It names a folder and, before a '#', the connection.
        let isName = name.map { $0.range(of: "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", options: .regularExpression) != nil }
        guard isName ?? true else {
            throw ValidationError(
                "--name '\(name!)': give 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit")
        }
        let isOpen = inbox.map { $0.contains("*") || $0.contains("0.0.0.0") } ?? false
        guard !isOpen || inboxAddress != nil || inbox!.contains("127.0.0.1") else {
            throw ValidationError(
                "--inbox \(inbox!) binds every address: say with --inbox-address what others connect to")
        }
    }

    func run(
        _ stage: StageKind,
        _ build: (WorkerConfiguration, Checkpoint, Context, Logger) throws -> WorkerService
    ) throws {
        let name = name ?? "\(stage.rawValue)-0"
        var configuration = WorkerConfiguration(
            stage: stage, name: name, router: connect, data: keeping.memoryOnly ? nil : service.data)
        configuration.durability = keeping.durability
        configuration.residentMiB = residentMiB
        configuration.limits = rows.limits
        configuration.kv = service.compute.kv
        configuration.inbox = inbox.map { $0 == "none" ? nil : $0 } ?? Self.inbox(beside: connect, name)
        configuration.inboxAddress = inboxAddress
        let log = service.log(name)
        let worker = try build(configuration, try service.checkpoint(), Context(), log)
        shareProcessors(log)
        let signals = StopSignals(supervised: service.supervised) { _ in worker.stop() }
        defer { signals.cancel() }
        try worker.run()
    }

    /// With the other workers on this data folder: threads of one stay asleep where others compute.
    private func shareProcessors(_ log: Logger) {
        let file = Self.processorsFile(service.data)
        let result = anira_share_processors(file, Int32(ProcessInfo.processInfo.activeProcessorCount))
        guard result != 0 else { return }
        log.info("shares no processors with other workers: \(file): \(String(cString: strerror(result)))")
    }

    static func processorsFile(_ data: String) -> String { "\(data)/processors" }
}

extension WorkerOptions {
    /// An inbox that only this machine reaches, where the Router's endpoint is one too.
    static func inbox(beside router: String, _ name: String) -> String? {
        if router.hasPrefix("ipc://") {
            let endpoint = "\(router).\(name)"
            return endpoint.utf8.count < 108 ? endpoint : nil
        }
        let isLocal = ["tcp://127.0.0.1:", "tcp://localhost:"].contains(where: router.hasPrefix)
        return isLocal ? "tcp://127.0.0.1:*" : nil
    }
}

struct DeciderCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decider", abstract: "Run one decider worker: embedding, prelude, early decider.")
    @OptionGroup var options: WorkerOptions

    func run() throws {
        try options.run(.decider) { try buildDecider($0, checkpoint: $1, context: $2, log: $3) }
    }
}

struct CoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "core", abstract: "Run one recurrent core worker: shared block, online decider, iterations.")
    @OptionGroup var options: WorkerOptions

    func run() throws {
        try options.run(.core) { try buildCore($0, checkpoint: $1, context: $2, log: $3) }
    }
}

struct CodaCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "coda", abstract: "Run one coda worker: coda layers, head, sampling.")
    @OptionGroup var options: WorkerOptions

    func run() throws {
        try options.run(.coda) { try buildCoda($0, checkpoint: $1, context: $2, log: $3) }
    }
}

func checkResident(_ mebibytes: Int) throws {
    guard (1...1 << 24).contains(mebibytes) else { throw ValidationError("--resident-mib must be 1…\(1 << 24)") }
}

/// An address that two processes can share.
func checkEndpoint(_ endpoint: String, _ option: String) throws {
    let port = endpoint.split(separator: ":", omittingEmptySubsequences: false).last ?? ""
    let isTCP = endpoint.hasPrefix("tcp://") && (port == "*" || UInt16(port) != nil)
    guard isTCP || (endpoint.hasPrefix("ipc://") && endpoint.utf8.count > 6) else {
        throw ValidationError("\(option) '\(endpoint)': give tcp://ADDRESS:PORT, the port up to 65535, or ipc://FILE")
    }
}

struct RouterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "router", abstract: "Run the Router: clients on one endpoint, workers on another.")
    @OptionGroup var service: ServiceOptions
    @Option(help: "Where clients connect.") var endpoint = "tcp://127.0.0.1:5555"
    @Option(help: "Where workers connect.") var workers = "tcp://127.0.0.1:5556"
    @OptionGroup var keeping: KeepingOptions
    @OptionGroup var traffic: TrafficOptions
    @OptionGroup var tracing: TraceOptions

    func validate() throws {
        try checkEndpoint(endpoint, "--endpoint")
        try checkEndpoint(workers, "--workers")
    }

    func run() throws {
        var configuration = RouterState.Configuration(checkpoint: try service.checkpoint())
        configuration.limits.concurrentRequests = traffic.maxRequests
        configuration.limits.backlogSeconds = traffic.maxBacklog
        configuration.chunk = traffic.chunk
        configuration.kv = service.compute.kv
        var options = RouterOptions(workers: workers, data: keeping.memoryOnly ? nil : service.data)
        options.endpoint = endpoint
        options.trace = tracing.trace
        options.durability = keeping.durability
        configuration.traces = tracing.trace != nil
        let model = configuration.modelName
        options.onReady = { say("anira is ready: \(model) on \($0)") }
        let router = try buildRouter(
            options, configuration: configuration, context: Context(), log: service.log("router"))
        let signals = StopSignals(supervised: service.supervised) { _ in router.stop() }
        defer { signals.cancel() }
        try router.run()
    }
}

/// SIGTERM, SIGINT and SIGHUP stop what runs cleanly; a supervised service leaves the last two, which a terminal sends to all, to
/// its supervisor, and ends at once when that is killed.
final class StopSignals {
    private var sources: [any DispatchSourceProtocol] = []
    private let latest = Atomic<Int32>(0)
    /// The last signal that came; 0: none.
    var last: Int32 { latest.load(ordering: .acquiring) }

    /// stop: is told the signal.
    init(supervised: Bool, stop: @escaping @Sendable (Int32) -> Void) {
        signal(SIGPIPE, SIG_IGN)
        if supervised { for number in [SIGINT, SIGHUP] { signal(number, SIG_IGN) } }
        for number in supervised ? [SIGTERM] : [SIGTERM, SIGINT, SIGHUP] {
            // Never ignored: a signal that comes before the source is registered ends the process, as if it had come earlier.
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            let registered = DispatchSemaphore(value: 0)
            source.setRegistrationHandler { registered.signal() }
            source.setEventHandler { [weak self] in
                self?.latest.store(number, ordering: .releasing)
                stop(number)
            }
            source.resume()
            registered.wait()
            sources.append(source)
        }
        if supervised { endWithSupervisor() }
    }

    /// Its standard input ends with the supervisor. What runs is kept as after `kill -9`, and a successor goes on with it.
    private func endWithSupervisor() {
        let source = DispatchSource.makeReadSource(fileDescriptor: STDIN_FILENO, queue: .global())
        source.setEventHandler {
            var byte: UInt8 = 0
            if read(STDIN_FILENO, &byte, 1) <= 0 { _exit(1) }
        }
        source.resume()
        sources.append(source)
    }

    func cancel() {
        for source in sources { source.cancel() }
    }
}
