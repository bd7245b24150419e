import ArgumentParser
import Foundation
import KVStore

struct KV: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kv", abstract: "Look into the key-value store, live or at rest.",
        subcommands: [KVStat.self, KVSessions.self, KVShow.self, KVVerify.self, KVCollect.self])
}

/// Which environments a command looks into.
struct StoreOptions: ParsableArguments {
    @Option(help: "The suite's data folder.") var data = "anira-data"
    @Option(help: "Only this stage: decider (whose store is named prelude), core or coda.") var stage: String?
    @Flag(help: "Print JSON.") var json = false

    func validate() throws {
        let stages = ["decider", "prelude", "core", "coda"]
        guard stage.map(stages.contains) ?? true else {
            throw ValidationError("--stage '\(stage ?? "")' is not one of \(stages.joined(separator: ", "))")
        }
    }

    func paths() throws -> [String] {
        let all = try KVInspector.environments(data: data)
        let folder = stage == "decider" ? "prelude" : stage
        let chosen = all.filter { path in
            folder.map { URL(fileURLWithPath: path).deletingLastPathComponent().lastPathComponent == $0 } ?? true
        }
        guard !chosen.isEmpty else {
            throw KVStoreError(
                .notFound, "find a store of stage '\(stage ?? "any")' in", path: data,
                advice: "start the suite once with this --data folder, or name another")
        }
        return chosen
    }

    /// Looks into each store, or works on it, whatever becomes of the others. Those that failed are told after what `show` prints
    /// of the rest, and make the command fail.
    func forEach<Found>(_ look: (String) throws -> Found, show: ([Found]) throws -> Void) throws {
        var found: [Found] = []
        var failures: [any Error] = []
        for path in try paths() {
            do { found.append(try look(path)) } catch { failures.append(error) }
        }
        if failures.isEmpty || !found.isEmpty { try show(found) }
        guard let last = failures.popLast() else { return }
        for failure in failures { tell("Error: \(failure)\n") }
        throw last
    }
}

struct KVStat: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stat", abstract: "Sessions, tokens and bytes of each stage's store.")
    @OptionGroup var options: StoreOptions

    func run() throws {
        try options.forEach({ try KVInspector(path: $0).summary() }, show: show)
    }

    private func show(_ summaries: [KVInspector.Summary]) throws {
        if options.json { return try printJSON(summaries) }
        for s in summaries {
            print("\(s.path): stage \(s.stage), model \(s.fingerprint), schema \(s.schema), \(s.dtype)")
            print(
                "  \(counted(s.sessions, "session")), \(counted(s.tokens, "token")), "
                    + "up to \(s.maxEntries) entries of \(s.layers) × 2 × \(s.width) floats a token")
            print(
                "  file \(size(s.fileBytes)), records \(size(s.recordBytes))"
                    + String(format: ", stored/raw %.2f", s.storedOverRaw))
        }
    }
}

struct KVSessions: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sessions",
        abstract:
            "Each session's length, the share of the bytes that full depth would take, and how many positions keep how many entries."
    )
    @OptionGroup var options: StoreOptions

    func run() throws {
        try options.forEach({ (path: $0, sessions: try KVInspector(path: $0).sessions()) }, show: show)
    }

    private func show(_ all: [(path: String, sessions: [KVInspector.Session])]) throws {
        if options.json { return try printJSON(Dictionary(uniqueKeysWithValues: all.map { ($0.path, $0.sessions) })) }
        for (path, sessions) in all {
            print("\(path): \(counted(sessions.count, "session"))")
            if !sessions.isEmpty {
                print("  id        positions  mean entries  of full depth  entries 1…       name or request")
            }
            for s in sessions {
                let share = s.fullDepthBytes > 0 ? Double(s.bytes) / Double(s.fullDepthBytes) : 0
                let label = s.name.isEmpty ? "(\(s.request))" : s.name
                let histogram = s.positionsByEntries.map(String.init).joined(separator: " ")
                print(
                    String(format: "  %-8llu  %9d  %12.2f  %12.0f%%  ", s.id, s.positions, s.meanEntries, share * 100)
                        + histogram.padding(toLength: max(15, histogram.count), withPad: " ", startingAt: 0) + "  "
                        + printable(label))
            }
        }
    }
}

struct KVShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "The entries of a session's positions.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "Session id, name, or the request id it belongs to, as 'kv sessions' shows them.")
    var session: String
    @Option(help: "First position.") var from = 0
    @Option(help: "Most positions shown.") var count = 64

    /// What one store has of the session.
    private struct Found {
        let path: String
        let length: Int
        let positions: [KVInspector.Position]
    }

    func validate() throws {
        guard from >= 0, from <= 1 << 30, count > 0, count <= 1 << 30 else {
            throw ValidationError("--from must be 0 or more, --count above 0")
        }
    }

    func run() throws {
        try options.forEach(look, show: show)
    }

    private func look(_ path: String) throws -> Found {
        let inspector = try KVInspector(path: path)
        let found = try inspector.sessions().first { ["\($0.id)", $0.name, $0.request].contains(session) }
        return Found(
            path: path, length: found?.positions ?? 0,
            positions: try found.map { try inspector.positions(session: $0.id, from..<(from + count)) } ?? [])
    }

    private func show(_ all: [Found]) throws {
        guard all.contains(where: { !$0.positions.isEmpty }) else {
            let longest = all.map(\.length).max() ?? 0
            throw KVStoreError(
                .notFound, "find \(longest > 0 ? "positions from \(from) on of " : "")session \(session) in",
                path: options.data,
                advice: longest > 0 ? "it has \(longest)" : "'anira kv sessions' lists them")
        }
        if options.json { return try printJSON(Dictionary(uniqueKeysWithValues: all.map { ($0.path, $0.positions) })) }
        for store in all where !store.positions.isEmpty {
            print("\(store.path): session \(printable(session))")
            for p in store.positions {
                print(String(format: "  position %5d: %d entries, %d bytes", p.position, p.entries, p.bytes))
                for entry in 0..<p.entries {
                    let layers = zip(p.keyNorms[entry], p.valueNorms[entry]).map {
                        String(format: "|k| %.3f |v| %.3f", $0, $1)
                    }
                    print("    entry \(entry): " + layers.joined(separator: "; "))
                }
            }
        }
    }
}

struct KVVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check every record's header, checksum and place; exit 1 when one is damaged.")
    @OptionGroup var options: StoreOptions

    struct Report: Codable {
        var path: String
        var records: Int
        var problems: [KVInspector.Problem]
    }

    func run() throws {
        try options.forEach(verify, show: show)
    }

    private func verify(_ path: String) throws -> Report {
        let (records, problems) = try KVInspector(path: path).verify()
        return Report(path: path, records: records, problems: problems)
    }

    private func show(_ reports: [Report]) throws {
        if options.json {
            try printJSON(reports)
        } else {
            for report in reports {
                print(
                    "\(report.path): \(counted(report.records, "record")), \(counted(report.problems.count, "problem"))"
                )
                for p in report.problems {
                    print("  session \(p.session) position \(p.position) key \(p.key): \(p.problem)")
                }
            }
        }
        if reports.contains(where: { !$0.problems.isEmpty }) { throw ExitCode(1) }
    }
}

struct KVCollect: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Remove finished unnamed sessions; the suite must not be running.",
        discussion: "Their pages are used again; the file keeps its size. On a full disk it needs a few MiB first.")
    @OptionGroup var options: StoreOptions
    @Option(help: "Keep the newest, at most so many MiB a store. Default with neither option: keep none.")
    var keepMib: Int?
    @Option(help: "Keep those of the last so many hours.") var keepHours: Double?

    func validate() throws {
        guard (0...1 << 40).contains(keepMib ?? 0), (0...1e9).contains(keepHours ?? 0) else {
            throw ValidationError("--keep-mib must be 0…\(1 << 40), --keep-hours 0…1000000000")
        }
    }

    func run() throws {
        try options.forEach({ (path: $0, count: try collect($0)) }, show: show)
    }

    private func collect(_ path: String) throws -> Int {
        let age = keepHours.map { $0 * 3600 } ?? (keepMib == nil ? -1 : Double(1 << 40))
        let bytes = keepMib.map { $0 << 20 } ?? (keepHours == nil ? -1 : .max)
        do {
            return try KVInspector.collect(path: path, keepBytes: bytes, ageSeconds: age)
        } catch let error as KVStoreError where error.code == .full {
            throw KVStoreError(
                .full, error.attempted, path: path, result: error.result,
                advice:
                    "free a few MiB on its disk first, or remove its data.mdb: what a stage's store holds is computed again"
            )
        }
    }

    private func show(_ removed: [(path: String, count: Int)]) throws {
        if options.json { return try printJSON(Dictionary(uniqueKeysWithValues: removed.map { ($0.path, $0.count) })) }
        for (path, count) in removed { print("\(path): removed \(counted(count, "unnamed session"))") }
    }
}

/// What a client chose, without what a terminal would obey.
func printable(_ text: String) -> String {
    String(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "\u{FFFD}" : Character($0) })
}

/// `1 session`, `2 sessions`.
func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }

/// Bytes in the unit that reads best.
func size(_ bytes: Int) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"]
    var value = Double(bytes)
    var unit = 0
    while value >= 1024, unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    return unit == 0 ? "\(bytes) B" : String(format: "%.1f %@", value, units[unit])
}
