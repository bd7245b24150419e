/// The three stages a row passes, in order.
public enum StageKind: String, Sendable, CaseIterable, Codable {
    case decider, core, coda

    /// Name of the stage's cache and folder in the store.
    public var cacheName: String { self == .decider ? "prelude" : rawValue }

    public var index: Int {
        switch self {
        case .decider: 0
        case .core: 1
        case .coda: 2
        }
    }
}

/// Error codes of the client API.
public enum ErrorCode: String, Sendable {
    case invalidArgument = "INVALID_ARGUMENT"
    case contextTooLong = "CONTEXT_TOO_LONG"
    case overloaded = "OVERLOADED"
    case deadlineExceeded = "DEADLINE_EXCEEDED"
    case cancelled = "CANCELLED"
    case notFound = "NOT_FOUND"
    case unavailable = "UNAVAILABLE"
    case storeFull = "STORE_FULL"
    case unsupportedVersion = "UNSUPPORTED_VERSION"
    case `internal` = "INTERNAL"
}
