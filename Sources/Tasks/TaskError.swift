/// What is wrong with a request for a task or a row, in one sentence that says what is allowed.
public struct TaskError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The kinds of failure a caller may want to tell apart.
    public enum Code: String, Sendable {
        /// No task of this name.
        case unknownTask
        /// An option the task does not have, or a value outside its range.
        case option
        /// A size the task cannot make.
        case size
        /// The split holds no instance of this size.
        case emptySplit
        /// A text with a word the task does not know.
        case word
    }

    public let code: Code
    public let message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
