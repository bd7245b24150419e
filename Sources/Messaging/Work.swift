import Proto

/// One item of work with its tensor: rows of one session for one stage.
public struct Work: Sendable {
    public var item: Anira_Worker_V1_WorkItem
    /// core: prelude states, coda: exit states, f32 [count, hidden].
    public var tensor: Tensor?
    /// When it came out of the socket, monotonic nanoseconds.
    public var taken: UInt64
    /// The item's `onward`, decoded by the worker that took it; empty: the result takes the rows to the Router.
    public var onward = Anira_Worker_V1_Onward()

    public init(_ item: Anira_Worker_V1_WorkItem, tensor: Tensor?, taken: UInt64 = 0) {
        self.item = item
        self.tensor = tensor
        self.taken = taken
    }
}

/// What became of one item, with its tensor.
public struct Outcome: Sendable {
    public var item: Anira_Worker_V1_ResultItem
    /// decider: prelude states, core: exit states, f32 [count, hidden]; coda: logits f32 [count, vocabulary] when asked.
    public var tensor: Tensor?

    public init(_ item: Anira_Worker_V1_ResultItem, tensor: Tensor? = nil) {
        self.item = item
        self.tensor = tensor
    }
}
