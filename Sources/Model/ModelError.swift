/// What is wrong with a checkpoint or a request to the model, in one sentence that says what to do.
public struct ModelError: Error, Equatable, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable {
        /// A file is absent or cannot be read.
        case unreadable
        /// A file does not hold what its format promises.
        case damaged
        /// The configuration names something this engine does not do.
        case unsupported
        /// A value is outside its range; `field` names it.
        case invalid
    }

    public let code: Code
    /// The offending field of a request or configuration, if one.
    public let field: String
    public let message: String

    public init(_ code: Code, field: String = "", _ message: String) {
        self.code = code
        self.field = field
        self.message = message
    }

    public var description: String { message }
}
