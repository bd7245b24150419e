import Foundation
import KVStore
import Messaging
import Proto

/// The compute thread: takes orders, steps the stage, reports progress. Owns the stage and its store.
struct ComputeLoop {
    let stage: any Stage
    let mailbox: WorkerMailbox
    private var progress: UInt64 = 0
    private var busyNS: UInt64 = 0
    private var lastHousekeeping = monotonicNanoseconds()

    init(stage: any Stage, mailbox: WorkerMailbox) {
        self.stage = stage
        self.mailbox = mailbox
    }

    /// Returns when the mailbox stops and everything admitted has been answered.
    mutating func run() {
        var idle = true
        while true {
            let (orders, stopping) = mailbox.takeOrders(idle: idle)
            orders.forEach(carryOut)
            let start = monotonicNanoseconds()
            report(computing: stage.pending > 0)
            idle = !stage.step()
            progress += 1
            busyNS += idle ? 0 : monotonicNanoseconds() - start
            if idle { report(computing: false) }
            if start - lastHousekeeping > 10_000_000_000 {
                stage.store.housekeeping()
                lastHousekeeping = start
            }
            if stopping, idle, stage.pending == 0 { break }
        }
        stage.store.close()
    }

    private func carryOut(_ order: Order) {
        switch order {
        case .work(let items): items.forEach(stage.admit)
        case .cancel(let request): stage.cancel(request: request)
        case .release(let session, let drop): stage.release(session: session, drop: drop)
        }
    }

    private func report(computing: Bool) {
        let figures = stage.figures
        let kv = stage.store.statistics()
        let (progress, busyNS) = (progress, busyNS)
        let pending = stage.pending
        mailbox.update { report in
            report.busyNS = busyNS
            report.pending = pending
            report.heartbeat.progress = progress
            report.heartbeat.computing = computing
            report.heartbeat.queued = UInt32(pending)
            report.heartbeat.steps = Float(figures.steps)
            report.heartbeat.rows = Float(figures.rows)
            report.heartbeat.tokens = Float(figures.tokens)
            report.heartbeat.depthHistogram = figures.depthHistogram
            report.heartbeat.residentMib = Float(kv.residentBytes) / 1_048_576
            report.heartbeat.budgetMib = Float(kv.budgetBytes) / 1_048_576
            report.heartbeat.residentSessions = UInt32(kv.residentSessions)
            report.heartbeat.mapUsed = Float(kv.mapUsedRatio)
            report.heartbeat.commits = Float(kv.commits)
            report.heartbeat.evictions = Float(kv.evictions)
            report.heartbeat.reloads = Float(kv.reloads)
        }
    }
}
