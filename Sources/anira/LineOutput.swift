import Foundation
import Model

/// Lines to standard output, written in blocks.
struct LineOutput: ~Copyable {
    enum Failure: Error, CustomStringConvertible {
        /// The pipe's other end was closed.
        case readerIsGone
        case failed(code: Int32)

        init(code: Int32) { self = code == EPIPE ? .readerIsGone : .failed(code: code) }

        var description: String {
            switch self {
            case .readerIsGone: "the reader of standard output is gone"
            case .failed(let code):
                "could not write to standard output: \(String(cString: strerror(code))); see whether the disk is full"
            }
        }
    }

    private static let blockBytes = 1 << 16
    private var pending: [UInt8] = []

    /// A closed pipe is told by an error of `write` from here on, in the whole process.
    init() {
        signal(SIGPIPE, SIG_IGN)
        pending.reserveCapacity(2 * Self.blockBytes)
    }

    /// Takes a line, without its end; call `flush` after the last.
    mutating func write(_ line: String) throws(Failure) {
        pending += line.utf8
        pending.append(UInt8(ascii: "\n"))
        if pending.count >= Self.blockBytes { try flush() }
    }

    /// Writes what is pending.
    mutating func flush() throws(Failure) {
        guard pending.withUnsafeBytes({ writeAll($0, to: STDOUT_FILENO) }) else { throw Failure(code: errno) }
        pending.removeAll(keepingCapacity: true)
    }
}
