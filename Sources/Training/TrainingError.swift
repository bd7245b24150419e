/// What stops a training run, in one line that says what to do.
public struct TrainingError: Error, CustomStringConvertible, Sendable {
    public let description: String

    public init(_ description: String) { self.description = description }

    /// use: what for, and what to do.
    static func noMemory(_ bytes: Int, for use: String) -> TrainingError {
        TrainingError("cannot allocate \((bytes + (1 << 20) - 1) >> 20) MiB for \(use)")
    }
}
