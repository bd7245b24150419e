import Proto

extension Anira_V1_Counters {
    /// All counters present and 0, so that JSON shows them from the start.
    static let zero = Anira_V1_Counters.with {
        $0.accepted = 0
        $0.completed = 0
        $0.failed = 0
        $0.rejected = 0
        $0.lateResults = 0
        $0.duplicates = 0
        $0.redeliveries = 0
        $0.replays = 0
        $0.unroutable = 0
        $0.malformed = 0
        $0.workersLost = 0
        $0.workersRefused = 0
        $0.slowClients = 0
    }
}
