import ArgumentParser
import CodaService
import Foundation
import KVStore
import Messaging
import Model
import Router

struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start all services as child processes and keep them running.",
        discussion: """
            Prints one line when every stage has a worker. A child that dies is started again, with back-off. SIGINT \
            and SIGTERM let running requests finish, then stop everything and leave nothing behind but the data; a second \
            one ends them too.
            """)
    @OptionGroup var service: ServiceOptions
    @Option(help: "Where clients connect.") var endpoint = "tcp://127.0.0.1:5555"
    @Option(help: "Number of decider workers.") var deciders = 1
    @Option(help: "Number of recurrent core workers.") var cores = 1
    @Option(help: "Number of coda workers.") var codas = 1
    @OptionGroup var keeping: KeepingOptions
    @Option(name: .customLong("resident-mib"), help: "Memory for cached keys and values of each worker, in MiB.")
    var residentMiB = 1024
    @OptionGroup var rows: RowOptions
    @OptionGroup var traffic: TrafficOptions
    @OptionGroup var tracing: TraceOptions

    func validate() throws {
        guard stages.allSatisfy({ (1...64).contains($0.count) }) else {
            throw ValidationError("--deciders, --cores and --codas must be 1…64")
        }
        try checkResident(residentMiB)
        try checkEndpoint(endpoint, "--endpoint")
    }

    func run() throws {
        let checkpoint = try service.checkpoint()
        try checkpoint.validate()
        let data = URL(fileURLWithPath: service.data).standardizedFileURL.path
        try Environment.makeFolder(data)
        let lock = try OwnerLock(path: "\(data)/suite.lock", what: "the data folder \(data)", instead: "--data folder")
        if !keeping.memoryOnly { try Ledger.check(data: data, fingerprint: checkpoint.fingerprint) }
        let supervisor = Supervisor(log: service.log("up"))
        let signals = StopSignals(supervised: service.supervised) { _ in supervisor.stop() }
        defer { signals.cancel() }
        let workers = Self.workerEndpoint(data)
        let succeeded = supervisor.run(children(workers: workers))
        // Of workers that were killed.
        for (stage, count) in stages {
            for index in 0..<count {
                removeSocketFile(of: WorkerOptions.inbox(beside: workers, "\(stage)-\(index)") ?? "")
            }
        }
        unlink(WorkerOptions.processorsFile(data))
        withExtendedLifetime(lock) {}
        if !succeeded { throw ExitCode(1) }
    }

    /// A socket file in the data folder, which only its owner may enter; a short name where paths are too long.
    private static func workerEndpoint(_ data: String) -> String {
        let path = "\(data)/workers.ipc"
        if path.utf8.count < 100 { return "ipc://\(path)" }
        return "ipc://\(NSTemporaryDirectory())anira-\(getpid()).ipc"
    }

    private var stages: [(name: String, count: Int)] { [("decider", deciders), ("core", cores), ("coda", codas)] }

    /// Router first: it stops first too, once running requests have finished.
    private func children(workers: String) -> [Supervisor.Child] {
        let shared =
            [
                "--model", service.model, "--data", service.data, "--log-level", service.logLevel.rawValue,
                "--supervised",
            ]
            + service.compute.arguments + keeping.arguments
        let worker =
            shared + ["--connect", workers, "--resident-mib", "\(residentMiB)"] + rows.arguments
        let router =
            shared + ["--endpoint", endpoint, "--workers", workers] + traffic.arguments
            + (tracing.trace.map { ["--trace", $0] } ?? [])
        return [Supervisor.Child(name: "router", arguments: ["router"] + router)]
            + stages.flatMap { stage, count in
                (0..<count).map { index in
                    Supervisor.Child(
                        name: "\(stage)-\(index)", arguments: [stage] + worker + ["--name", "\(stage)-\(index)"])
                }
            }
    }
}
