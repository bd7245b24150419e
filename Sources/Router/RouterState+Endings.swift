import Foundation
import Logging
import Messaging
import Model
import Proto
import SwiftProtobuf

/// Endings: exactly one a request, remembered under its id.
extension RouterState {
    mutating func fail(_ id: UInt64, _ code: ErrorCode, _ message: String) {
        guard let request = requests[id] else { return }
        counters.failed += 1
        // A later request of the session starts from the state before this one.
        finish(request, .error(error(code, message)), [])
    }

    mutating func finish(_ request: Request, _ content: ClientReply.OneOf_Reply, _ tensors: [Frame]) {
        requests[request.id] = nil
        running[request.clientID] = nil
        for pin in request.pins { workers[pin]?.requests.remove(request.id) }
        forgetItems(request)
        var answer = ClientReply()
        answer.id = request.clientID
        answer.reply = content
        var ending = Ending()
        var succeeded = true
        if case .error(let error) = content {
            succeeded = false
            // Refusals that a repeat may overcome are not remembered as the answer to this id.
            if error.code != ErrorCode.unavailable.rawValue, error.code != ErrorCode.storeFull.rawValue {
                ending.answer = kept(answer, request)
            }
        } else {
            counters.completed += 1
            ending.answer = kept(answer, request)
        }
        if configuration.traces {
            actions.append(.traceEnd(request: request.id, id: request.clientID, from: request.received, to: now))
        }
        ending.session = settleSession(request, succeeded)
        actions.append(.log(level(of: content), "request '\(request.clientID)' ended: \(Self.summary(content))"))
        ending.replies = request.clients.map { (answer, tensors, $0) }
        for watcher in request.watchers {
            var copy = answer
            copy.id = watcher.id
            ending.replies.append((copy, tensors, watcher.client))
        }
        actions.append(.end(ending))
        leave(request)
    }

    /// What the suite itself is to blame for is worth a warning, one of a kind in ten seconds.
    private mutating func level(of content: ClientReply.OneOf_Reply) -> Logger.Level {
        guard case .error(let error) = content,
            [ErrorCode.storeFull, .internal].map(\.rawValue).contains(error.code),
            now - (lastWarned[error.code] ?? 0) > 10_000_000_000
        else { return .info }
        lastWarned[error.code] = now
        return .warning
    }

    private static func summary(_ content: ClientReply.OneOf_Reply) -> String {
        switch content {
        case .completed(let r): "\(r.tokens.count) new tokens, mean depth \(r.usage.meanDepth)"
        case .scored(let r): "\(r.depths.count) tokens scored, mean depth \(r.usage.meanDepth)"
        case .error(let r): "\(r.code), \(r.message)"
        case .accepted, .token, .status, .models: ""
        }
    }

    /// The answer as it is remembered from now on; nil: it is not.
    private mutating func kept(_ answer: ClientReply, _ request: Request) -> ResultRecord? {
        // Tensors are not kept; to score again has no effect but the same answer.
        guard !request.job.wantsLogits else { return nil }
        do {
            let record = ResultRecord(
                number: request.id, id: request.clientID, digest: request.digest, reply: try answer.serializedData())
            if let forgotten = remember(record) {
                // The ledger is in order of arrival, answers are forgotten in order of their ends.
                let oldest = results.values.map(\.number).min() ?? .max
                actions.append(.forgetResults(through: min(forgotten, oldest - 1)))
            }
            return record
        } catch {
            actions.append(.log(.error, "the answer to '\(request.clientID)' cannot be kept: \(error)"))
            return nil
        }
    }

    /// Keeps an answer, and forgets the oldest ones beyond the limits; returns the number of the last one forgotten.
    @discardableResult
    mutating func remember(_ record: ResultRecord) -> UInt64? {
        if let replaced = results.updateValue(record, forKey: record.id) {
            resultBytes -= replaced.reply.count
        } else {
            resultOrder.append(record.id)
        }
        resultBytes += record.reply.count
        var forgotten: UInt64?
        while resultOrder.count > configuration.limits.rememberedResults
            || (resultBytes > configuration.limits.rememberedBytes && resultOrder.count > 1)
        {
            guard let oldest = results.removeValue(forKey: resultOrder.removeFirst()) else { continue }
            resultBytes -= oldest.reply.count
            forgotten = oldest.number
        }
        return forgotten
    }

    /// Named sessions keep their tokens; unnamed ones leave the workers' memory. What the ledger has to know of it.
    private mutating func settleSession(_ request: Request, _ succeeded: Bool) -> (
        name: String, record: SessionRecord?
    )? {
        let name = request.job.session
        if name.isEmpty {
            for pin in request.pins {
                if let worker = workers[pin], worker.state != .lost {
                    actions.append(.release(session: request.session, drop: false, to: worker.address))
                }
            }
        } else if succeeded {
            let record = SessionRecord(
                id: request.session, tokens: request.tokens, depths: Data(request.depths.prefix(request.done)),
                pins: request.pins)
            sessions[name] = record
            return (name, record)
        } else {
            // Workers to which it had moved keep nothing of it.
            let holders = sessions[name]?.pins ?? []
            forget(session: request.session, at: request.pins.filter { !holders.contains($0) })
        }
        return nil
    }

    func completed(_ request: Request, _ reason: String) -> Anira_V1_Completed {
        let positions = request.promptEnd - 1..<max(request.promptEnd - 1, request.tokens.count - 1)
        return .with {
            $0.tokens = Array(request.newTokens)
            $0.text = configuration.vocabulary?.text(of: request.newTokens) ?? ""
            $0.depths = positions.map { Int32(request.depths[$0]) }
            $0.promptDepths = request.depths[request.promptStart..<request.promptEnd].map(Int32.init)
            $0.finishReason = reason
            $0.logprobs = request.newLogprobs
            if request.job.wantsDistributions {
                $0.exitDistributions = positions.map { list(request.distribution($0)) }
            }
            $0.usage = usage(request)
            $0.timing = timing(request)
        }
    }

    func scored(_ request: Request) -> Anira_V1_Scored {
        .with {
            $0.logprobs = request.logprobs
            $0.depths = request.depths.map(Int32.init)
            if request.job.wantsDistributions {
                $0.exitDistributions = request.tokens.indices.map { list(request.distribution($0)) }
            }
            if request.job.wantsLogits {
                $0.logits.frame = 1
                $0.logits.dtype = "f32"
                $0.logits.shape = [Int32(request.tokens.count), Int32(configuration.model.vocabSize)]
            }
            $0.usage = usage(request)
            $0.timing = timing(request)
        }
    }

    /// All chunks' logits as one frame [n, vocabulary].
    func logits(_ request: Request) -> [Frame] {
        guard request.job.wantsLogits else { return [] }
        return [Tensor.joined(request.logits.sorted { $0.key < $1.key }.map(\.value))]
    }

    private func list(_ values: [Float]) -> Google_Protobuf_ListValue {
        // By way of the shortest decimal, so that JSON shows the same digits as for a float field.
        .with { $0.values = values.map { value in .with { $0.numberValue = Double("\(value)") ?? Double(value) } } }
    }

    private func usage(_ request: Request) -> Anira_V1_Usage {
        let spent = request.depths[request.computeStart...].prefix(max(0, request.done - request.computeStart))
        let iterations = spent.reduce(0) { $0 + Int($1) }
        return .with {
            $0.promptTokens = Int32(request.promptEnd - request.promptStart)
            $0.newTokens = Int32(request.newTokens.count)
            $0.coreIterations = Int32(iterations)
            $0.meanDepth = spent.isEmpty ? 0 : Float(iterations) / Float(spent.count)
        }
    }

    private func timing(_ request: Request) -> Anira_V1_Timing {
        func stage(_ kind: StageKind) -> Anira_V1_StageTiming {
            .with {
                let spent = request.clock.stages[kind.index]
                $0.queueMs = Float(spent.queue) / 1e6
                $0.computeMs = Float(spent.compute) / 1e6
                $0.decideMs = Float(spent.decide) / 1e6
                $0.storeMs = Float(spent.store) / 1e6
                $0.transportMs = Float(spent.transport) / 1e6
            }
        }
        let total = now - request.received
        return .with {
            $0.totalMs = Float(total) / 1e6
            $0.routerMs = Float(request.clock.router(of: total)) / 1e6
            $0.decider = stage(.decider)
            $0.core = stage(.core)
            $0.coda = stage(.coda)
        }
    }
}
