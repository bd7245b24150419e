import Logging
import Messaging
import Proto

/// Where a reply goes: the client's routing id, the shape it spoke in, and its encoding.
public struct ClientAddress: Sendable, Hashable {
    public var routingID: [UInt8]
    /// An empty delimiter frame came first: a REQ socket, which takes exactly one reply.
    public var isREQ: Bool
    public var isJSON: Bool

    public init(routingID: [UInt8], isREQ: Bool, isJSON: Bool) {
        self.routingID = routingID
        self.isREQ = isREQ
        self.isJSON = isJSON
    }
}

/// A worker's routing id: name and incarnation, so that no two workers ever share one.
public typealias WorkerAddress = [UInt8]

/// What happens to the Router. Times are monotonic nanoseconds.
public enum RouterEvent: Sendable {
    /// A well-formed request; `digest` identifies its content.
    case request(ClientRequest, digest: UInt64, from: ClientAddress)
    /// A message that holds no request, or a damaged one.
    case unreadable(Refusal, id: String, from: ClientAddress)
    case ready(Anira_Worker_V1_Ready, from: WorkerAddress)
    case results([Outcome], from: WorkerAddress)
    case heartbeat(Anira_Worker_V1_Heartbeat)
    case drain(from: WorkerAddress)
    case bye(from: WorkerAddress)
    /// A message to this worker found no peer.
    case unroutable(WorkerAddress)
    /// Neither did the message to remove this session.
    case undroppable(session: UInt64, WorkerAddress)
    /// This client has gone, or (slow) does not read its replies.
    case clientLost(ClientAddress, slow: Bool)
    /// No new requests; those that run may finish.
    case shutDown
    /// The grace time is over: what still runs ends now.
    case abandon
    /// The Router itself did nothing for so many nanoseconds, and heard nobody.
    case stoodStill(UInt64)
    /// Time passes: deadlines, leases, heartbeats.
    case tick
}

/// An item's way through one stage.
public struct TraceSpan: Sendable {
    let request: UInt64
    let id: String
    let worker: String
    let process: Int32
    let stage: StageKind
    let attempt: UInt32
    let position: Int
    let count: Int
    /// It came from the coda's slice of the position before, not from the Router.
    let isContinued: Bool
    let times: ItemTimes
}

/// The end of a request, or of a named session: what is written, all or nothing, before those who asked are told.
public struct Ending: Sendable {
    public typealias Reply = (reply: ClientReply, tensors: [Frame], client: ClientAddress)

    /// For repeats of its id.
    public var answer: ResultRecord?
    /// A named session as it is now; without a record it is no more.
    public var session: (name: String, record: SessionRecord?)?
    public var replies: [Reply] = []
}

/// What the Router wants done.
public enum RouterAction: Sendable {
    case reply(ClientReply, tensors: [Frame], to: ClientAddress)
    case readyAck(Anira_Worker_V1_ReadyAck, to: WorkerAddress)
    case refuse(Anira_Worker_V1_Refused, to: WorkerAddress)
    case work([Work], to: WorkerAddress)
    /// Items of this attempt and of older ones are no longer wanted.
    case cancel(request: UInt64, through: UInt32, to: WorkerAddress)
    case release(session: UInt64, drop: Bool, to: WorkerAddress)
    case heartbeat(to: WorkerAddress)
    /// It may leave: nothing more will come.
    case dismiss(WorkerAddress)
    case end(Ending)
    /// Remembered answers up to this number are no longer needed.
    case forgetResults(through: UInt64)
    case reserve(sessionsBelow: UInt64)
    /// What workers that are away are to drop when they are back, all of it.
    case owe(drops: [String: [UInt64]])
    /// For the trace file: an item's way through one stage, and a whole request.
    case trace(TraceSpan)
    case traceEnd(request: UInt64, id: String, from: UInt64, to: UInt64)
    case log(Logger.Level, String)
}
