import Foundation
import Histogram
import Kernels
import Messaging

/// What `--json` prints of every measurement: where it was made, and what was found.
struct BenchReport<Results: Encodable>: Encodable {
    let machine = machineName()
    let commit = commitName()
    let kernels = kernelsName()
    let results: Results

    init(_ results: Results) { self.results = results }
}

/// The first line of every table: the same, with what was measured.
func heading(_ what: String) -> String {
    "\(machineName()), kernels \(kernelsName()), commit \(commitName()): \(what)"
}

/// Shows on a terminal what is being measured; nil: nothing any more.
func progress(_ text: String?) {
    guard isatty(STDERR_FILENO) != 0 else { return }
    tell("\r\u{1B}[K\(text ?? "")")
}

private func kernelsName() -> String { String(cString: anira_kernels_variant()) }

private func machineName() -> String {
    let info = FileManager.default.contents(atPath: "/proc/cpuinfo").map { String(decoding: $0, as: UTF8.self) } ?? ""
    let line = info.split(separator: "\n").first { $0.hasPrefix("model name") }
    let name = line?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown"
    return "\(name), \(ProcessInfo.processInfo.activeProcessorCount) cores"
}

/// The commit of the tree that this program was built in, when it is a git checkout.
private func commitName() -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    let folder = Bundle.main.executableURL?.resolvingSymlinksInPath().deletingLastPathComponent().path ?? "."
    process.arguments = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = Pipe()
    do {
        try process.run()
        process.waitUntilExit()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        return process.terminationStatus == 0 ? text.trimmingCharacters(in: .whitespacesAndNewlines) : "unknown"
    } catch {
        return "unknown"
    }
}

/// How long `body` takes.
func seconds(_ body: () throws -> Void) rethrows -> Double {
    let start = monotonicNanoseconds()
    try body()
    return Double(monotonicNanoseconds() - start) / 1e9
}

func median(_ values: [Double]) -> Double {
    guard !values.isEmpty else { return .nan }
    let sorted = values.sorted()
    return sorted.count % 2 == 1
        ? sorted[sorted.count / 2] : (sorted[sorted.count / 2 - 1] + sorted[sorted.count / 2]) / 2
}

/// The smallest value that so many percent (0…100) of them do not exceed.
func percentile(_ values: [Double], _ percent: Double) -> Double {
    guard !values.isEmpty else { return .nan }
    let rank = Int((percent / 100 * Double(values.count)).rounded(.up))
    return values.sorted()[min(values.count, max(1, rank)) - 1]
}

extension Histogram where Count == UInt64 {
    /// Of nanoseconds: the percentile (0…100) in microseconds.
    func micros(_ percent: Double) -> Double { Double(valueAtPercentile(percent)) / 1000 }

    /// Records what `body` takes, in nanoseconds.
    mutating func time(_ body: () throws -> Void) rethrows {
        let start = monotonicNanoseconds()
        try body()
        record(monotonicNanoseconds() - start)
    }
}
