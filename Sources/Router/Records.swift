import Foundation

/// What the Router keeps of a named session across requests and restarts: enough to replay it exactly.
public struct SessionRecord: Sendable, Codable, Equatable {
    /// Key of the session in the workers' stores.
    public var id: UInt64
    /// Every token so far; the last one of a generation has not been through the model yet.
    public var tokens: [Int32]
    /// Exit depth of each position computed so far (depths.count ≤ tokens.count).
    public var depths: Data
    /// Workers that hold it, by stage.
    public var pins: [String]
}

/// The answer to a finished request, for repeats of its id and for `result`.
public struct ResultRecord: Sendable, Codable, Equatable {
    /// Counts up over all runs: the order of arrival.
    public var number: UInt64
    public var id: String
    public var digest: UInt64
    /// The terminal ClientReply in protobuf, without tensors.
    public var reply: Data
}

/// What an earlier run left behind.
public struct LedgerContents: Sendable {
    public var sessions: [String: SessionRecord] = [:]
    public var results: [ResultRecord] = []
    /// First session number this run may use.
    public var nextSession: UInt64 = 1
    /// Sessions that workers, by name, are still to drop.
    public var owedDrops: [String: [UInt64]] = [:]

    public init() {}
}
