import Messaging
import Proto

/// Workers: registration, leases, loss. Status.
extension RouterState {
    mutating func register(_ ready: Anira_Worker_V1_Ready, _ address: WorkerAddress) {
        guard let stage = StageKind(rawValue: ready.stage), !ready.name.isEmpty else {
            return refuse(address, "stage '\(ready.stage)' is not one of decider, core, coda, or the name is empty")
        }
        guard ready.protocolVersion == workerProtocolVersion else {
            return refuse(
                address,
                "the worker speaks protocol \(ready.protocolVersion), this Router \(workerProtocolVersion); "
                    + "run the same release of both")
        }
        let expected = configuration.kv.fingerprint(of: configuration.fingerprint)
        guard ready.fingerprint == expected else {
            return refuse(
                address,
                "the worker serves model \(ready.fingerprint), this Router \(expected); "
                    + "start both with the same --model, --weights and --kv")
        }
        if let known = workers[ready.name] {
            guard known.stage == stage || known.state == .lost else {
                return refuse(
                    address, "a \(known.stage.rawValue) worker is named '\(ready.name)'; choose another --name")
            }
            guard ready.incarnation >= known.incarnation || known.state == .lost else {
                return refuse(address, "a newer worker named '\(ready.name)' is registered; choose another --name")
            }
            if known.address != address { lose(known, "was replaced by a new process") }
        }
        let returning = workers[ready.name]?.address == address && workers[ready.name]?.state != .lost
        if returning {
            workers[ready.name]?.lastHeard = now
        } else {
            let worker = Worker(ready, stage: stage, address: address, now: now)
            (workers[ready.name], workerAt[address]) = (worker, worker)
            actions.append(.log(.info, "\(ready.name) is ready, process \(ready.pid)"))
        }
        actions.append(
            .readyAck(
                .with {
                    $0.protocolVersion = workerProtocolVersion
                    $0.heartbeatMs = UInt32(configuration.heartbeatMS)
                }, to: address))
        if let owed = owedDrops.removeValue(forKey: ready.name) {
            for session in owed { actions.append(.release(session: session, drop: true, to: address)) }
            actions.append(.owe(drops: owedDrops))
        }
        retryOrphans()
    }

    private mutating func refuse(_ address: WorkerAddress, _ reason: String) {
        counters.workersRefused += 1
        actions.append(.log(.warning, "refused a worker: \(reason)"))
        actions.append(
            .refuse(
                .with {
                    $0.reason = reason
                    $0.protocolVersion = workerProtocolVersion
                    $0.fingerprint = configuration.kv.fingerprint(of: configuration.fingerprint)
                }, to: address))
    }

    /// A worker that finishes what it holds and takes no more: its sessions go to others as their requests next come by here.
    mutating func drain(_ address: WorkerAddress) {
        guard let worker = workerAt[address] else { return }
        if worker.state != .draining {
            actions.append(.log(.info, "\(worker.name) finishes what it holds and leaves"))
            worker.drainingSince = now
        }
        worker.state = .draining
        let queued = worker.queue
        worker.queue.removeAll()
        for var item in queued {
            item.enqueued = now
            enqueue(item)
        }
        dismissIfDone(worker)
    }

    /// Tells a draining worker once nothing is, or may be, on its way to it. Where all of the suite is being stopped, the last
    /// of a stage stay until no request runs.
    private mutating func dismissIfDone(_ worker: Worker) {
        guard worker.state == .draining, worker.leases.isEmpty,
            !worker.requests.contains(where: { requests[$0]?.handedOver != nil }),
            requests.isEmpty || !mayBeNeeded(worker)
        else { return }
        actions.append(.dismiss(worker.address))
    }

    private func mayBeNeeded(_ worker: Worker) -> Bool {
        // A signal to all may reach the Router after its workers.
        let areAllStopped = isShuttingDown || now - worker.drainingSince < UInt64(configuration.heartbeatMS) * 1_000_000
        return areAllStopped && !workers.values.contains { $0.stage == worker.stage && $0.state == .ready }
    }

    /// Workers of a stage that take work: those that are ready or, where all of the suite is being stopped, those that are left.
    private func serving(_ stage: StageKind) -> [Worker] {
        let members = workers.values.filter { $0.stage == stage }
        let ready = members.filter { $0.state == .ready }
        return ready.isEmpty && isShuttingDown ? members.filter { $0.state == .draining } : ready
    }

    /// A worker has ended in order, and nobody waits for it: what it still owes goes to others.
    mutating func leave(_ address: WorkerAddress) {
        guard let worker = workerAt[address] else { return }
        workers[worker.name] = nil
        guard worker.leases.isEmpty, worker.queue.isEmpty else { return lose(worker, "ended before it had finished") }
        workerAt[address] = nil
        actions.append(.log(.info, "\(worker.name) has left"))
    }

    mutating func hear(_ figures: Anira_Worker_V1_Heartbeat) {
        guard let worker = workers[figures.name], worker.incarnation == figures.incarnation, worker.state != .lost
        else {
            return
        }
        worker.lastHeard = now
        if figures.progress != worker.progress || !figures.computing { worker.lastProgress = now }
        if figures.queued == 0, !figures.computing { worker.lastIdle = now }
        worker.progress = figures.progress
        worker.figures = figures
    }

    /// A worker is gone: what it owed is handed out again, to its successor if that comes within the grace time.
    mutating func lose(_ worker: Worker, _ reason: String) {
        guard worker.state != .lost else { return }
        counters.workersLost += 1
        actions.append(
            .log(.warning, "lost \(worker.name): it \(reason); \(worker.leases.count) items will be handed out again"))
        workerAt[worker.address] = nil
        for key in worker.leases.keys { requests[key.request]?.losses[key, default: 0] += 1 }
        let items = worker.takeAll()
        worker.state = .lost
        worker.lastHeard = now
        for item in items {
            let losses = requests[item.request]?.losses[item.key] ?? 0
            if losses < configuration.maxLosses {
                handOutAgain(item)
            } else {
                fail(item.request, .internal, "it was lost with its worker \(losses) times and is not tried again")
            }
        }
    }

    private mutating func handOutAgain(_ item: Item) {
        var item = item
        item.enqueued = now
        counters.redeliveries += 1
        enqueue(item)
    }

    /// To the worker that holds the session, or a new choice.
    mutating func enqueue(_ item: Item) {
        guard let request = requests[item.request], request.attempt == item.attempt else { return }
        if let worker = choose(item.stage, request) {
            worker.queue.append(item)
        } else {
            orphans.append(item)
        }
    }

    /// The worker of a stage that holds the request's session, or the one that owes least, which holds it from now on.
    /// nil: there is none now, or the session's own is expected back.
    mutating func choose(_ stage: StageKind, _ request: Request) -> Worker? {
        let pin = request.pins[stage.index]
        let holder = workers[pin]
        let grace = UInt64(configuration.graceMS) * 1_000_000
        switch holder.map({ $0.stage == stage ? $0.state : .draining }) {
        case nil where !pin.isEmpty && now - started < grace: return nil  // of an earlier run: it may still register
        case .ready:
            holder!.requests.insert(request.id)
            return holder
        case .lost where now - holder!.lastHeard < grace: return nil
        case .lost, .draining, nil: break
        }
        let serving = serving(stage)
        let ranked = serving.map {
            (rank: (owed(by: $0), $0.requests.count, $0.figures.residentSessions, $0.name), worker: $0)
        }
        let own = serving.first { $0 === holder }
        guard let chosen = own ?? ranked.min(by: { $0.rank < $1.rank })?.worker else { return nil }
        if !pin.isEmpty, own == nil {
            holder?.requests.remove(request.id)
            // Its copy would be out of date if the session ever came back.
            if !request.job.session.isEmpty { forget(session: request.session, at: [pin]) }
        }
        chosen.requests.insert(request.id)
        request.pins[stage.index] = chosen.name
        return chosen
    }

    /// Takes a request's items back from every queue and lease, and from the workers that hold some.
    mutating func forgetItems(_ request: Request) {
        orphans.removeAll { $0.request == request.id }
        for worker in workers.values {
            let isOwing = worker.forget(request: request.id)
            // Rows may be on their way to it from another worker.
            let mayHold = isOwing || (request.handedOver != nil && request.pins.contains(worker.name))
            guard mayHold, worker.state != .lost else { continue }
            actions.append(.cancel(request: request.id, through: request.attempt, to: worker.address))
        }
    }

    /// A client that has gone keeps its requests running: it may come back for the `result`. One that does not
    /// read its replies loses them.
    mutating func cutOff(_ client: ClientAddress, slow: Bool) {
        let its = requests.values.filter { $0.clients.contains(client) }
        for request in requests.values { request.watchers.removeAll { $0.client == client } }
        for request in its { request.clients.removeAll { $0 == client } }
        guard slow else { return }
        counters.slowClients += max(1, its.count)
        // By number: the end of one may begin the next of its session anew.
        for request in its where request.clients.isEmpty && request.watchers.isEmpty {
            fail(request.id, .cancelled, "its client does not take its replies")
        }
    }

    mutating func tick() {
        cost.measure(now: now, running: requests.count)
        for (id, request) in requests {
            if let deadline = request.deadline, now >= deadline {
                fail(id, .deadlineExceeded, "not finished within deadline_ms")
            }
        }
        for worker in workers.values where worker.state != .lost {
            if now - worker.lastHeard > UInt64(configuration.silenceMS) * 1_000_000 {
                lose(worker, "was silent for \(configuration.silenceMS) ms")
            } else if worker.figures.computing,
                now - worker.lastProgress > UInt64(configuration.stallMS) * 1_000_000
            {
                lose(worker, "made no progress for \(configuration.stallMS) ms")
            } else {
                actions.append(.heartbeat(to: worker.address))
                dismissIfDone(worker)
                recoverForgotten(worker)
            }
        }
        for worker in workers.values where worker.state == .lost && now - worker.lastHeard > patience {
            workers[worker.name] = nil  // it is not expected back
        }
        retryOrphans()
    }

    /// Nanoseconds that a missing worker is waited for.
    private var patience: UInt64 { UInt64(configuration.patienceMS) * 1_000_000 }

    /// What a worker never got, or what it answered in vain, because a connection broke: it says that it holds nothing
    /// a second after it was given something, or has answered its like that came ten seconds later.
    private mutating func recoverForgotten(_ worker: Worker) {
        guard !worker.leases.isEmpty else { return }
        let second: UInt64 = 1_000_000_000
        let forgotten = worker.leases.values.filter {
            $0.enqueued + second < worker.lastIdle || worker.hasPassed($0, by: 10 * second)
        }
        for var item in forgotten.sorted(by: { ($0.request, $0.position) < ($1.request, $1.position) }) {
            guard worker.forgetLease(item.key) else { continue }
            actions.append(
                .log(.warning, "\(worker.name) owes the rows at \(item.position) of request \(item.request) in vain"))
            item.recoveries += 1
            if item.recoveries > 10 {
                fail(item.request, .internal, "its rows were lost on the way \(item.recoveries) times")
            } else {
                handOutAgain(item)
            }
        }
    }

    /// Items whose stage had no worker: to one now, or to an end when none came for too long.
    private mutating func retryOrphans() {
        let waiting = orphans
        orphans.removeAll()
        for item in waiting {
            if now - item.enqueued > patience {
                fail(
                    item.request, .unavailable,
                    "no \(item.stage.rawValue) worker came for \(configuration.patienceMS) ms")
            } else {
                enqueue(item)
            }
        }
    }
}

// MARK: - Status

extension RouterState {
    func model() -> Anira_V1_Model {
        let c = configuration.model
        return .with {
            $0.name = configuration.modelName
            $0.fingerprint = configuration.fingerprint
            $0.decider = c.decider.rawValue
            $0.maxDepth = Int32(c.maxDepth)
            $0.vocabSize = Int32(c.vocabSize)
            $0.hiddenSize = Int32(c.hiddenSize)
            $0.maxPositionEmbeddings = Int32(c.maxPositionEmbeddings)
            $0.policies = c.policies
            $0.exitKv = c.exitKV.rawValue
        }
    }

    func status() -> Anira_V1_SuiteStatus {
        .with {
            $0.version = suiteVersion
            $0.model = model()
            $0.running = Int32(requests.count)
            $0.waiting = Int32(requests.values.filter(\.waiting).count + Set(orphans.map(\.request)).count)
            $0.sessions = Int32(sessions.count)
            $0.counters = counters.message
            $0.stages = StageKind.allCases.map { stage in
                .with {
                    let members = workers.values.filter { $0.stage == stage }.sorted { $0.name < $1.name }
                    $0.name = stage.rawValue
                    $0.queued = Int32(members.reduce(0) { $0 + $1.queue.count } + orphans.count { $0.stage == stage })
                    $0.workers = members.map(status)
                }
            }
        }
    }

    private func status(_ worker: Worker) -> Anira_V1_Worker {
        let figures = worker.figures
        return .with {
            $0.name = worker.name
            $0.state = worker.state.rawValue
            $0.pid = worker.pid
            $0.inFlight = Int32(worker.leases.count)
            $0.busy = worker.state == .lost ? 0 : figures.busy
            $0.rowsPerStep = figures.steps > 0 ? figures.rows / figures.steps : 0
            $0.depthHistogram = figures.depthHistogram.map { Int32(clamping: $0) }
            $0.steps = figures.steps
            $0.tokens = figures.tokens
            $0.kv.residentMib = figures.residentMib
            $0.kv.budgetMib = figures.budgetMib
            $0.kv.residentSessions = Int32(clamping: figures.residentSessions)
            $0.kv.mapUsed = figures.mapUsed
            $0.kv.commits = figures.commits
            $0.kv.evictions = figures.evictions
            $0.kv.reloads = figures.reloads
        }
    }
}
