/// Short names for the generated messages.
public typealias ClientRequest = Anira_V1_ClientRequest
public typealias ClientReply = Anira_V1_ClientReply

/// The worker protocol's version: both sides name theirs, and a difference is refused.
public let workerProtocolVersion: UInt32 = 1

/// First frame of every message between Router and workers.
public let workerProtocolTag: [UInt8] = Array("ANIRAW01".utf8)

/// Second frame of every message between Router and workers: one byte.
public enum WorkerCommand: UInt8, Sendable, CaseIterable {
    /// Worker → Router: stage, name, incarnation, version, fingerprint, capacity.
    case ready = 0x01
    /// Router → worker: registered.
    case readyAck = 0x02
    /// Router → worker: not registered, with the reason.
    case refused = 0x03
    /// Router → worker: rows to compute.
    case work = 0x04
    /// Worker → Router: computed and committed rows.
    case result = 0x05
    /// Both: alive; the worker's carries the progress of its compute loop.
    case heartbeat = 0x06
    /// Router → worker: drop what is queued of this request.
    case cancel = 0x07
    /// Router → worker: a session is no longer needed in memory (or at all).
    case release = 0x08
    /// Worker → Router: finishing what it has, send no more.
    case drain = 0x09
    /// Worker → Router: gone.
    case bye = 0x0A
}

/// The release of the whole suite.
public let suiteVersion = "0.1.0"
