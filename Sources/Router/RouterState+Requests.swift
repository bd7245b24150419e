import DequeModule
import Foundation
import Messaging
import Model
import Proto
import SwiftProtobuf

/// Admission: what a client's message starts, joins or asks about.
extension RouterState {
    mutating func take(_ message: ClientRequest, _ digest: UInt64, _ client: ClientAddress) {
        do {
            guard message.id.utf8.count <= 64 else {
                throw Refusal.invalid("id", "at most 64 bytes, found \(message.id.utf8.count)")
            }
            guard !message.hasDeadlineMs || message.deadlineMs > 0 else {
                throw Refusal.invalid("deadline_ms", "must be above 0, found \(message.deadlineMs)")
            }
            switch message.operation {
            case .generate(let r): try admit(message, try validator.job(r, digest), digest, client)
            case .score(let r): try admit(message, try validator.job(r), digest, client)
            case .cancel(let r): try cancel(r.id, message.id, client)
            case .result(let r): try result(r.id, message.id, client)
            case .dropSession(let r): try drop(r.session, message.id, client)
            case .status: reply(message.id, .status(status()), to: client)
            case .models: reply(message.id, .models(.with { $0.models = [model()] }), to: client)
            case nil: throw Refusal.invalid("operation", "give exactly one of \(ClientCodec.operations)")
            }
        } catch let refusal as Refusal {
            counters.rejected += 1
            reply(message.id, .error(error(refusal)), to: client)
        } catch {
            counters.rejected += 1
            replyError(message.id, .internal, "\(error)", to: client)
        }
    }

    /// Runs a new request, or joins the client to the one that already has this id.
    private mutating func admit(
        _ message: ClientRequest, _ job: Job, _ digest: UInt64, _ client: ClientAddress
    ) throws {
        guard !message.id.isEmpty else {
            throw Refusal.invalid("id", "is needed: up to 64 bytes of the client's choice")
        }
        if try join(message.id, digest, client) { return }
        guard !isShuttingDown else { throw Refusal(.unavailable, "the suite is shutting down") }
        guard requests.count < configuration.limits.concurrentRequests else {
            throw Refusal(
                .overloaded, "\(requests.count) requests are running; try again later", retryAfterMS: retryAfterMS)
        }
        let history = job.session.isEmpty ? nil : sessions[job.session]
        try validator.checkLength(
            (history?.tokens.count ?? 0) + job.tokens.count, "\(job.kind == .score ? "score" : "generate").tokens")
        guard !job.tokens.isEmpty || !(history?.tokens.isEmpty ?? true) else {
            throw Refusal.invalid("generate.tokens", "at least one token is needed to start session '\(job.session)'")
        }
        let request = Request(
            id: nextRequest, clientID: message.id, digest: digest, job: job,
            session: history?.id ?? nextSession, history: history, clients: [client], now: now,
            deadline: message.hasDeadlineMs ? now + UInt64(message.deadlineMs) * 1_000_000 : nil)
        try checkBacklog(request)
        nextRequest += 1
        if history == nil { takeSessionNumber() }
        counters.accepted += 1
        requests[request.id] = request
        running[message.id] = request.id
        if !client.isREQ { reply(message.id, .accepted(.with { $0.durability = durability }), to: client) }
        actions.append(.log(.info, "request '\(message.id)' accepted: \(job.kind) of \(job.tokens.count) tokens"))
        enter(request)
    }

    private mutating func takeSessionNumber() {
        nextSession += 1
        guard nextSession >= sessionLimit else { return }
        sessionLimit = nextSession + 1024
        actions.append(.reserve(sessionsBelow: sessionLimit))
    }

    /// Requests of one named session run one after the other.
    private mutating func enter(_ request: Request) {
        let name = request.job.session
        guard !name.isEmpty else { return pump(request) }
        sessionQueues[name, default: []].append(request.id)
        if sessionQueues[name]!.count == 1 { pump(request) } else { request.waiting = true }
    }

    /// The next request of the session starts from where the last one ended.
    mutating func leave(_ request: Request) {
        let name = request.job.session
        guard !name.isEmpty, var queue = sessionQueues[name] else { return }
        queue.removeAll { $0 == request.id }
        sessionQueues[name] = queue.isEmpty ? nil : queue
        guard queue.first.flatMap({ requests[$0] })?.waiting ?? false else { return }
        failTooLong(in: name)
        guard let next = sessionQueues[name]?.first, let waiting = requests[next], waiting.waiting else { return }
        let renewed = Request(
            id: waiting.id, clientID: waiting.clientID, digest: waiting.digest, job: waiting.job,
            session: sessions[name]?.id ?? waiting.session, history: sessions[name], clients: waiting.clients,
            now: waiting.received, deadline: waiting.deadline)
        renewed.watchers = waiting.watchers
        requests[next] = renewed
        pump(renewed)
    }

    /// Ends those that wait for a session whose history has no room for them any more: it only grows. All at once, since the end
    /// of each begins the next.
    private mutating func failTooLong(in name: String) {
        let (history, most) = (sessions[name]?.tokens.count ?? 0, configuration.model.maxPositionEmbeddings)
        let ended = Set(sessionQueues[name, default: []]).filter { id in
            requests[id].map { $0.waiting && history + $0.job.tokens.count > most } ?? false
        }
        guard !ended.isEmpty else { return }
        sessionQueues[name]?.removeAll { ended.contains($0) }
        if sessionQueues[name]?.isEmpty ?? false { sessionQueues[name] = nil }
        for id in ended.sorted() {
            let positions = history + (requests[id]?.job.tokens.count ?? 0)
            fail(id, .contextTooLong, "generate.tokens: \(positions) positions; this model holds \(most)")
        }
    }

    /// True when the id is known: the sender gets that request's answers and nothing runs twice.
    private mutating func join(_ id: String, _ digest: UInt64, _ client: ClientAddress) throws -> Bool {
        if let known = running[id], let request = requests[known] {
            guard request.digest == digest else { throw Self.reused(id) }
            counters.duplicates += 1
            if !request.clients.contains(client) { request.clients.append(client) }
            if !client.isREQ { reply(id, .accepted(.with { $0.durability = durability }), to: client) }
            return true
        }
        guard let record = results[id] else { return false }
        guard record.digest == digest else { throw Self.reused(id) }
        counters.duplicates += 1
        if !client.isREQ { reply(id, .accepted(.with { $0.durability = durability }), to: client) }
        repeatAnswer(record, under: id, to: client)
        return true
    }

    private static func reused(_ id: String) -> Refusal {
        Refusal.invalid("id", "'\(id)' was already used for another request; choose a new id")
    }

    private mutating func repeatAnswer(_ record: ResultRecord, under id: String, to client: ClientAddress) {
        do {
            var answer = try ClientReply(serializedBytes: record.reply)
            answer.id = id
            actions.append(.reply(answer, tensors: [], to: client))
        } catch {
            replyError(id, .internal, "the remembered answer is damaged: \(error)", to: client)
        }
    }

    private mutating func cancel(_ target: String, _ id: String, _ client: ClientAddress) throws {
        guard let known = running[target] else {
            throw Refusal(.notFound, "cancel.id: no running request '\(target.prefix(64))'")
        }
        fail(known, .cancelled, "cancelled by the client")
        reply(id, .accepted(.with { $0.durability = durability }), to: client)
    }

    private mutating func result(_ target: String, _ id: String, _ client: ClientAddress) throws {
        if let known = running[target].flatMap({ requests[$0] }) {
            guard known.watchers.count < Request.mostWatchers else {
                throw Refusal(.overloaded, "result.id: \(known.watchers.count) wait for '\(target.prefix(64))' already")
            }
            known.watchers.append(Watcher(id: id, client: client))
        } else if let record = results[target] {
            repeatAnswer(record, under: id, to: client)
        } else {
            throw Refusal(.notFound, "result.id: no request '\(target.prefix(64))' is known")
        }
    }

    private mutating func drop(_ name: String, _ id: String, _ client: ClientAddress) throws {
        guard !name.isEmpty else { throw Refusal.invalid("drop_session.session", "is needed: the session's name") }
        let cancelled = Array(sessionQueues[name] ?? [])
        // The last one first: an earlier one's end would start the next.
        for request in cancelled.reversed() { fail(request, .cancelled, "its session was dropped") }
        guard let record = sessions.removeValue(forKey: name) else {
            if !cancelled.isEmpty { return reply(id, .accepted(.with { $0.durability = durability }), to: client) }
            throw Refusal(.notFound, "drop_session.session: no session '\(name.prefix(64))'")
        }
        forget(session: record.id, at: record.pins)
        var ending = Ending()
        ending.session = (name, nil)
        let accepted = ClientReply.with {
            $0.id = id
            $0.accepted.durability = durability
        }
        ending.replies = [(accepted, [], client)]
        actions.append(.end(ending))
    }

    /// Removes a session from its workers' stores, of a lost one when it is back.
    mutating func forget(session: UInt64, at pins: [String]) {
        var away: [String] = []
        for name in pins where !name.isEmpty {
            let worker = workers[name]
            if let worker, worker.state != .lost {
                actions.append(.release(session: session, drop: true, to: worker.address))
            }
            // One that is leaving may read no more.
            if worker?.state != .ready { away.append(name) }
        }
        if !away.isEmpty { owe(away, session) }
    }

    /// Workers that are away are to drop it when they are back.
    mutating func owe(_ workers: [String], _ session: UInt64) {
        for name in workers { owedDrops[name, default: []].append(session) }
        actions.append(.owe(drops: owedDrops))
    }

    /// The weakest promise among the stages' stores and the ledger.
    var durability: String {
        guard !workerAt.isEmpty else { return "memory" }
        let kinds = Set(workerAt.values.map(\.durability) + [configuration.durability])
        return ["memory", "process", "power"].first(where: kinds.contains) ?? "memory"
    }
}

// MARK: - Replies

extension RouterState {
    mutating func reply(
        _ id: String, _ content: ClientReply.OneOf_Reply, tensors: [Frame] = [], to client: ClientAddress
    ) {
        var message = ClientReply()
        message.id = id
        message.reply = content
        actions.append(.reply(message, tensors: tensors, to: client))
    }

    mutating func replyError(_ id: String, _ code: ErrorCode, _ message: String, to client: ClientAddress) {
        reply(id, .error(error(code, message)), to: client)
    }

    func error(_ code: ErrorCode, _ message: String) -> Anira_V1_Error { error(Refusal(code, message)) }

    private func error(_ refusal: Refusal) -> Anira_V1_Error {
        .with {
            $0.code = refusal.code.rawValue
            $0.message = refusal.message
            if let time = refusal.retryAfterMS { $0.retryAfterMs = Int32(time) }
        }
    }
}
