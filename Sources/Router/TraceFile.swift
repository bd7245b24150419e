import Foundation
import Logging
import Messaging
import Proto

/// Why the Router cannot start.
public struct RouterError: Error, Sendable, CustomStringConvertible {
    public let description: String
}

/// A Chrome trace ("JSON array format"), which Perfetto and chrome://tracing open: a process for the Router and each
/// worker, in it a line for each request, slices for waiting, computing, deciding and storing, and arrows that follow an
/// item from process to process.
final class TraceFile {
    private let file: FileHandle
    private let path: String
    private var buffer: [String] = []
    private var named: Set<String> = []
    /// Until when the tracks of a request are taken in a process: slices of one line must not overlap.
    private var tracks: [Place: [UInt64]] = [:]
    /// A place in the coda's last slice of each request, from where the next token may go on.
    private var drawn: [UInt64: (process: Int32, line: Int, time: UInt64)] = [:]
    private var failed = false
    private struct Place: Hashable {
        let request: UInt64
        let process: Int32
    }
    private let log: Logger

    /// A trace that a killed Router left without an end is gone on with, an earlier one replaced; any other file is refused.
    init(path: String, log: Logger) throws {
        file = try Self.open(path)
        self.path = path
        self.log = log
        buffer.append(Self.event("process_name", "M", process: getpid(), extra: #""args":{"name":"router"}"#))
    }

    private static func open(_ path: String) throws -> FileHandle {
        // A pipe without a reader is an error, not a wait.
        let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw RouterError(description: "cannot write the trace \(path): \(String(cString: strerror(errno)))")
        }
        let file = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw RouterError(
                description: "cannot write the trace \(path): it is not a regular file; choose another one")
        }
        let first = Data("[\n{\"name\":\"process_name\"".utf8)
        let head = try file.read(upToCount: first.count) ?? Data()
        guard first.starts(with: head) else {
            throw RouterError(description: "the file \(path) is not a trace and is left as it is; choose another one")
        }
        try file.truncate(atOffset: lastWholeEvent(of: file))
        if try file.offset() == 0 { try file.write(contentsOf: Data("[\n".utf8)) }
        return file
    }

    /// Where a trace without an end can be gone on with; 0 for one that has an end, or no events.
    private static func lastWholeEvent(of file: FileHandle) throws -> UInt64 {
        let end = try file.seekToEnd()
        let start = end - min(end, 1 << 16)
        try file.seek(toOffset: start)
        guard let rest = try file.readToEnd(), rest.suffix(2) != Data("]\n".utf8),
            let last = rest.range(of: Data(",\n".utf8), options: .backwards)
        else { return 0 }
        return start + UInt64(last.upperBound)
    }

    /// An item's way through one stage, and the arrow that leads through it.
    func add(_ span: TraceSpan) {
        let times = span.times
        let line = Self.line(span.request) + track(span)
        name(span.worker, process: span.process, line: line, "request \(span.id)")
        let what = "\"positions\":\"\(span.position)…\(span.position + span.count - 1)\""
        let parts: [(String, UInt64, UInt64)] = [
            ("queue", times.taken, times.admitted), (span.stage.rawValue, times.admitted, times.decided),
            ("decide", times.decided, times.done), ("store", times.done, times.committed),
        ]
        for (name, start, end) in parts where end > start {
            buffer.append(
                Self.event(
                    name, "X", process: span.process, line: line, at: start,
                    extra: #""dur":\#(Self.micros(end - start)),"args":{\#(what)}"#))
        }
        arrow(span, line)
        if buffer.count >= 256 { flush() }
    }

    /// A request's whole time in the suite.
    func end(request: UInt64, id: String, from start: UInt64, to end: UInt64) {
        name("router", process: getpid(), line: Self.line(request), "request \(id)")
        buffer.append(
            Self.event(
                "request \(id)", "X", process: getpid(), line: Self.line(request), at: start,
                extra: #""dur":\#(Self.micros(end - start))"#))
        drawn[request] = nil
        tracks = tracks.filter { $0.key.request != request }
        flush()
        named = named.filter { !$0.contains(" ") }  // names of lines are written again: few requests run
    }

    /// The rest, and the end of the list. Readers also accept a file without it.
    func close() {
        buffer.append(Self.event("end", "i", process: getpid(), at: monotonicNanoseconds(), extra: #""s":"g""#))
        flush(last: true)
    }

    /// From the Router's line of the request, or the coda's slice, to the stage's slice, and from the coda's back.
    private func arrow(_ span: TraceSpan, _ line: Int) {
        let id = #""cat":"item","id":"\#(span.request).\#(span.attempt).\#(span.position)","bp":"e""#
        let home = (process: getpid(), line: Self.line(span.request), time: span.times.sent)
        let inside = span.times.admitted + (span.times.done - span.times.admitted) / 2
        if span.stage == .decider {
            let from = span.isContinued ? drawn[span.request] ?? home : home
            buffer.append(Self.event("item", "s", process: from.process, line: from.line, at: from.time, extra: id))
        }
        buffer.append(Self.event("item", "t", process: span.process, line: line, at: inside, extra: id))
        if span.stage == .coda {
            buffer.append(
                Self.event("item", "f", process: home.process, line: home.line, at: span.times.settled, extra: id))
            drawn[span.request] = (span.process, line, inside)
        }
    }

    /// The first track that is free from when the worker took the item: chunks of one request may be there together.
    private func track(_ span: TraceSpan) -> Int {
        let place = Place(request: span.request, process: span.process)
        var ends = tracks[place] ?? []
        let track = ends.firstIndex { $0 <= span.times.taken } ?? min(ends.count, Self.mostTracks - 1)
        if track == ends.count { ends.append(0) }
        ends[track] = span.times.committed
        tracks[place] = ends
        return track
    }

    private func name(_ worker: String, process: Int32, line: Int, _ title: String) {
        if named.insert("\(process)").inserted {
            buffer.append(
                Self.event("process_name", "M", process: process, extra: #""args":{"name":\#(Self.quoted(worker))}"#))
        }
        if named.insert("\(process) \(line)").inserted {
            buffer.append(
                Self.event(
                    "thread_name", "M", process: process, line: line,
                    extra: #""args":{"name":\#(Self.quoted(title))}"#))
        }
    }

    private func flush(last: Bool = false) {
        guard !failed else { return buffer.removeAll() }
        guard !buffer.isEmpty else { return }
        do {
            try file.write(contentsOf: Data((buffer.joined(separator: ",\n") + (last ? "\n]\n" : ",\n")).utf8))
        } catch {
            failed = true
            log.error("the trace \(path) ends here: \(error.localizedDescription)")
        }
        buffer.removeAll(keepingCapacity: true)
    }

    private static let mostTracks = 16

    /// A request's first line of `mostTracks`; numbers that every viewer can hold.
    private static func line(_ request: UInt64) -> Int { Int(request % (1 << 24)) * mostTracks }

    private static func event(
        _ name: String, _ phase: String, process: Int32, line: Int = 0, at time: UInt64 = 0, extra: String
    ) -> String {
        #"{"name":\#(quoted(name)),"ph":"\#(phase)","pid":\#(process),"tid":\#(line),"ts":\#(micros(time)),\#(extra)}"#
    }

    /// Microseconds with three digits.
    private static func micros(_ nanoseconds: UInt64) -> String {
        let rest = String(nanoseconds % 1000)
        return "\(nanoseconds / 1000)." + String(repeating: "0", count: 3 - rest.count) + rest
    }

    private static func quoted(_ text: String) -> String {
        do {
            return String(decoding: try JSONEncoder().encode(text), as: UTF8.self)
        } catch {
            return "\"?\""
        }
    }
}
