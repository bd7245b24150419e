import CZeroMQ

/// A ZeroMQ call that failed: what was attempted, on which endpoint, the C error, and what to do.
public struct MessagingError: Error, Sendable, CustomStringConvertible {
    public let attempted: String
    public let endpoint: String
    /// errno after the call.
    public let code: Int32
    public let advice: String

    init(_ attempted: String, _ endpoint: String = "", code: Int32 = zmq_errno(), advice: String = "") {
        self.attempted = attempted
        self.endpoint = endpoint
        self.code = code
        self.advice = advice
    }

    public var description: String {
        let reason = code == 0 ? "" : ": \(String(cString: zmq_strerror(code)))"
        let place = endpoint.isEmpty ? "" : " \(endpoint)"
        return "cannot \(attempted)\(place)\(reason)" + (advice.isEmpty ? "" : "; \(advice)")
    }
}
