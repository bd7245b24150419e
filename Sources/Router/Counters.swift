import Proto

/// What the Router has counted since its start; on the wire each is the nearest float.
struct Counters: Sendable {
    var accepted = 0
    var completed = 0
    var failed = 0
    var rejected = 0
    var lateResults = 0
    var duplicates = 0
    var redeliveries = 0
    var replays = 0
    var unroutable = 0
    var malformed = 0
    var workersLost = 0
    var workersRefused = 0
    var slowClients = 0

    /// All of them present, so that JSON shows them from the start.
    var message: Anira_V1_Counters {
        .with {
            $0.accepted = Float(accepted)
            $0.completed = Float(completed)
            $0.failed = Float(failed)
            $0.rejected = Float(rejected)
            $0.lateResults = Float(lateResults)
            $0.duplicates = Float(duplicates)
            $0.redeliveries = Float(redeliveries)
            $0.replays = Float(replays)
            $0.unroutable = Float(unroutable)
            $0.malformed = Float(malformed)
            $0.workersLost = Float(workersLost)
            $0.workersRefused = Float(workersRefused)
            $0.slowClients = Float(slowClients)
        }
    }
}
