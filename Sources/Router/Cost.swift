import Messaging
import Model
import Proto

/// What requests cost and how fast it is worked off (docs/architecture.md, "Admission").
///
/// The unit is a layer pass, one position through one layer: a position takes those of prelude and coda once and those of
/// the core once for each iteration (architecture.md, "Admission"). Depths that a client fixes are known; others count as the mean of
/// those seen so far.
struct CostModel: Sendable {
    private let outside: Double
    private let iteration: Double
    private let positions: Int
    private let limits: RequestLimits
    /// Mean depth of the positions done, the newest counting most.
    private(set) var meanDepth: Double
    /// Layer passes a second: the best interval of late among those with many requests, since products of few rows are far
    /// slower. nil: too few such intervals were seen.
    var rate: Double? { intervals < limits.measuredIntervals ? nil : best }
    private var best = 0.0
    private var intervals = 0
    private var passes = 0.0
    /// When this interval began, and with how many requests.
    private var begun: (at: UInt64, running: Int) = (0, 0)

    init(_ configuration: ModelConfiguration, _ limits: RequestLimits) {
        self.limits = limits
        outside = Double(configuration.numPreludeLayers + configuration.numCodaLayers)
        iteration = Double(configuration.numCoreLayers)
        positions = configuration.maxPositionEmbeddings
        meanDepth = Double(configuration.maxDepth + 1) / 2
    }

    /// What is left of a request, in layer passes.
    func remaining(_ request: Request) -> Double { left(request) * (outside + iteration * expectedDepth(request)) }

    /// The part of it that one stage has to do.
    func remaining(_ request: Request, at stage: StageKind) -> Double {
        left(request) * (stage == .core ? iteration * expectedDepth(request) : outside / 2)
    }

    /// Positions to go: no request goes beyond the model's.
    private func left(_ request: Request) -> Double {
        let new = max(0, request.job.maxNewTokens - request.newTokens.count)
        return Double(max(0, min(request.tokens.count + new, positions) - request.done))
    }

    private func expectedDepth(_ request: Request) -> Double {
        let rule = request.job.rule
        switch rule.policy {
        case .fixed: return Double(rule.clamped(rule.value))
        case .perToken where request.meanGivenDepth != nil: return request.meanGivenDepth!
        default: return min(max(meanDepth, Double(rule.minimum)), Double(rule.maximum))
        }
    }

    /// Positions went through all stages at these depths.
    mutating func finish(depths: ArraySlice<UInt8>) {
        for depth in depths {
            passes += outside + iteration * Double(depth)
            meanDepth += (Double(depth) - meanDepth) / 512
        }
    }

    /// Regularly: an interval ends. running: requests now.
    mutating func measure(now: UInt64, running: Int) {
        defer { (passes, begun) = (0, (now, running)) }
        guard begun.at > 0, now > begun.at, min(begun.running, running) >= limits.measuredRequests else { return }
        best = max(passes / (Double(now - begun.at) / 1e9), best * 0.99)
        intervals += 1
    }
}

extension RouterState {
    /// Refuses a request when what was admitted before would keep it waiting for too long. Alone it always runs.
    func checkBacklog(_ request: Request) throws {
        guard let rate = cost.rate, rate > 0, !requests.isEmpty else { return }
        let owed = requests.values.reduce(cost.remaining(request)) { $0 + cost.remaining($1) }
        let seconds = owed / rate
        let most = configuration.limits.backlogSeconds
        guard seconds > most else { return }
        throw Refusal(
            .overloaded,
            "with it there would be work for about \(Int(min(seconds, 1e9))) s, at most \(Int(min(most, 1e9))) s are taken on",
            retryAfterMS: Int(min(max((seconds - most) * 1000, 100), 3_600_000)))
    }

    /// When one of the running requests should have ended.
    var retryAfterMS: Int {
        guard let rate = cost.rate, rate > 0, let least = requests.values.map({ cost.remaining($0) }).min() else {
            return 100
        }
        return Int(min(max(least / rate * 1000 * Double(requests.count), 10), 60_000))
    }

    /// Layer passes that a worker still owes the requests that it holds sessions of.
    func owed(by worker: Worker) -> Double {
        worker.requests.reduce(0) { $0 + (requests[$1].map { cost.remaining($0, at: worker.stage) } ?? 0) }
    }
}
