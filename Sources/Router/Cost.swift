import Model

/// What requests cost and how fast it is worked off (docs/architecture.md, "Admission").
///
/// The unit is a layer pass, one position through one layer: a position takes those of prelude and coda once and those of
/// the core once for each iteration (model.md, "Cost"). Depths that a client fixes are known; others count as the mean of
/// those seen so far.
struct CostModel: Sendable {
    private let outside: Double
    private let iteration: Double
    /// Mean depth of the positions done, the newest counting most.
    private(set) var meanDepth: Double
    /// Layer passes a second: the best interval of late, since a suite with little to do is slower than it could be. nil:
    /// nothing measured.
    private(set) var rate: Double?
    private var passes = 0.0
    private var since: UInt64 = 0

    init(_ configuration: ModelConfiguration) {
        outside = Double(configuration.numPreludeLayers + configuration.numCodaLayers)
        iteration = Double(configuration.numCoreLayers)
        meanDepth = Double(configuration.maxDepth + 1) / 2
    }

    /// What is left of a request, in layer passes; only the core's when `coreOnly`.
    func remaining(_ request: Request, coreOnly: Bool = false) -> Double {
        let job = request.job
        let left = request.tokens.count - request.done + max(0, job.maxNewTokens - request.newTokens.count)
        return Double(left) * ((coreOnly ? 0 : outside) + iteration * expectedDepth(job))
    }

    private func expectedDepth(_ job: Job) -> Double {
        switch job.rule.policy {
        case .fixed: return Double(job.rule.clamped(job.rule.value))
        case .perToken where !job.depths.isEmpty:
            return Double(job.depths.reduce(0) { $0 + job.rule.clamped(Int($1)) }) / Double(job.depths.count)
        default: return min(max(meanDepth, Double(job.rule.minimum)), Double(job.rule.maximum))
        }
    }

    /// Positions went through all stages at these depths.
    mutating func finish(depths: ArraySlice<UInt8>) {
        for depth in depths {
            passes += outside + iteration * Double(depth)
            meanDepth += (Double(depth) - meanDepth) / 512
        }
    }

    /// Regularly: an interval ends.
    mutating func measure(now: UInt64) {
        defer { (passes, since) = (0, now) }
        guard since > 0, now > since, passes > 0 else { return }
        let found = passes / (Double(now - since) / 1e9)
        rate = max(found, (rate ?? 0) * 0.99)
    }
}

extension RouterState {
    /// Refuses a request when what was admitted before would keep it waiting for too long. Alone it always runs.
    func checkBacklog(_ request: Request) throws {
        guard let rate = cost.rate, !requests.isEmpty else { return }
        let owed = requests.values.reduce(cost.remaining(request)) { $0 + cost.remaining($1) }
        let seconds = owed / rate
        let most = configuration.limits.backlogSeconds
        guard seconds > most else { return }
        throw Refusal(
            .overloaded, "with it there would be work for about \(Int(seconds)) s, at most \(Int(most)) s are taken on",
            retryAfterMS: Int(min((seconds - most) * 1000, 3_600_000)))
    }

    /// When one of the running requests should have ended.
    var retryAfterMS: Int {
        guard let rate = cost.rate, let least = requests.values.map({ cost.remaining($0) }).min() else { return 100 }
        return Int(min(max(least / rate * 1000 * Double(requests.count), 10), 60_000))
    }

    /// Layer passes that a worker still owes the requests that it holds sessions of.
    func owed(by worker: Worker) -> Double {
        worker.requests.reduce(0) { sum, id in
            sum + (requests[id].map { cost.remaining($0, coreOnly: worker.stage == .core) } ?? 0)
        }
    }
}
