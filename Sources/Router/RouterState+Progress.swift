import Messaging
import Model
import Proto

/// Moving requests forward: chunks out, results in, answers to the client.
extension RouterState {
    /// Sends chunks to the decider while the window has room. handedTo: the decider that has been given the token drawn last
    /// already.
    mutating func pump(_ id: UInt64, handedTo: String = "") {
        guard var request = requests[id] else { return }
        request.waiting = false
        while request.chunksInFlight < configuration.window, request.frontier < request.tokens.count {
            let end = request.chunkEnd(from: request.frontier, limit: configuration.chunk)
            let item = Item(
                request: id, attempt: request.attempt, stage: .decider, position: request.frontier,
                count: end - request.frontier, enqueued: now)
            request.frontier = end
            request.chunksInFlight += 1
            requests[id] = request
            pass(item, outcomeHandedTo: handedTo)
            guard let current = requests[id] else { return }
            request = current
        }
        requests[id] = request
        if request.chunksInFlight == 0 { finishIfDone(id) }
    }

    mutating func take(_ outcomes: [Outcome], _ address: WorkerAddress) {
        for outcome in outcomes {
            guard let name = nameOf[address], workers[name]?.address == address else {
                counters.lateResults += 1
                continue
            }
            workers[name]!.lastHeard = now
            settle(outcome, name)
        }
    }

    private mutating func settle(_ outcome: Outcome, _ name: String) {
        let stage = workers[name]!.stage
        let key = ItemKey(request: outcome.item.request, stage: stage, position: Int(outcome.item.position))
        guard let item = workers[name]!.settle(key, attempt: outcome.item.attempt),
            requests[item.request]?.attempt == item.attempt
        else {
            if !keepAhead(outcome, name) { counters.lateResults += 1 }
            return
        }
        let times = ItemTimes(outcome.item, settled: now)
        requests[item.request]!.clock.add(stage, times, handedOver: !outcome.item.handedTo.isEmpty)
        if configuration.traces { actions.append(.trace(span(item, name, times))) }
        advance(item, outcome)
    }

    private mutating func advance(_ item: Item, _ outcome: Outcome) {
        let width = configuration.model.hiddenSize
        switch (item.stage, outcome.item.outcome) {
        case (_, .needContext(let need)):
            replay(item.request, from: min(Int(need.from), item.position))
        case (_, .failure(let failure)):
            fail(item.request, ErrorCode(rawValue: failure.code) ?? .internal, failure.message)
        case (.decider, .decider(let result)) where outcome.tensor?.count == item.count * width * 4:
            forward(
                item, depths: Array(result.depths), distributions: result.distributions, outcome.tensor,
                handedTo: outcome.item.handedTo)
        case (.core, .core(let result))
        where outcome.tensor?.count == item.count * width * 4 && result.depths.count == item.count
            && result.depths.allSatisfy({ (1...configuration.model.maxDepth).contains(Int($0)) }):
            leaveCore(
                item, Array(result.depths), result.distributions, outcome.tensor, handedTo: outcome.item.handedTo)
        case (.coda, .coda(let result)):
            finishChunk(item, result, outcome.tensor, handedTo: outcome.item.handedTo)
        default:
            counters.malformed += 1
            fail(item.request, .internal, "the \(item.stage.rawValue) answered with a result of the wrong shape")
        }
    }

    /// decider → core.
    private mutating func forward(
        _ item: Item, depths: [UInt8], distributions: [Float], _ tensor: Frame?, handedTo: String
    ) {
        let k = configuration.model.maxDepth
        guard depths.isEmpty || depths.count == item.count else {
            return fail(item.request, .internal, "the decider answered with a result of the wrong shape")
        }
        if distributions.count == item.count * k {
            for row in 0..<item.count {
                note(item.request, item.position + row, Array(distributions[(row * k)..<((row + 1) * k)]))
            }
        }
        var next = Item(
            request: item.request, attempt: item.attempt, stage: .core, position: item.position, count: item.count,
            tensor: tensor, enqueued: now)
        next.depths = depths.isEmpty ? nil : depths
        pass(next, outcomeHandedTo: handedTo)
    }

    /// The rows' next stage: leased to the worker that was handed them, or handed out from here.
    private mutating func pass(_ item: Item, outcomeHandedTo handedTo: String) {
        let name = requests[item.request]!.pins[item.stage.index]
        guard !handedTo.isEmpty, let worker = workers[name], worker.state != .lost,
            worker.address == Array(handedTo.utf8)
        else { return enqueue(item) }
        var item = item
        item.deliveries += 1
        item.isContinued = item.stage == .decider
        workers[name]!.lease(item)
        guard let waiting = requests[item.request]!.handedOver else { return }
        requests[item.request]!.handedOver!.position = item.position
        requests[item.request]!.handedOver!.stage = item.stage
        let index = waiting.ahead.firstIndex {
            $0.from == worker.address && Int($0.outcome.item.position) == item.position
        }
        guard let index else { return }
        settle(requests[item.request]!.handedOver!.ahead.remove(at: index).outcome, name)
    }

    private func span(_ item: Item, _ name: String, _ times: ItemTimes) -> TraceSpan {
        TraceSpan(
            request: item.request, id: requests[item.request]?.clientID ?? "", worker: name,
            process: workers[name]?.pid ?? 0, stage: item.stage, position: item.position, count: item.count,
            lane: item.position / max(1, configuration.chunk) % configuration.window, isContinued: item.isContinued,
            times: times)
    }

    /// Keeps a result that came before those of the stages ahead of it; false when it is late.
    private mutating func keepAhead(_ outcome: Outcome, _ name: String) -> Bool {
        let position = Int(outcome.item.position)
        guard let worker = workers[name], let request = requests[outcome.item.request],
            request.attempt == outcome.item.attempt, let waiting = request.handedOver,
            (position, worker.stage.index) > (waiting.position, waiting.stage.index),
            position < request.tokens.count + configuration.continuation,
            !waiting.ahead.contains(where: { $0.from == worker.address && $0.outcome.item.position == position })
        else { return false }
        requests[outcome.item.request]!.handedOver!.ahead.append((outcome, worker.address))
        return true
    }

    /// core → coda, in the order of positions even when a later chunk's rows left the core first.
    private mutating func leaveCore(
        _ item: Item, _ depths: [UInt8], _ distributions: [Float], _ tensor: Frame?, handedTo: String
    ) {
        var offset = 0
        for (row, depth) in depths.enumerated() {
            let end = offset + Int(depth)
            if end <= distributions.count {
                note(item.request, item.position + row, Array(distributions[offset..<end]))
            }
            offset = end
        }
        requests[item.request]!.early[item.position] = (item.count, depths, tensor)
        while let position = requests[item.request]?.nextCoda,
            let ready = requests[item.request]!.early.removeValue(forKey: position)
        {
            requests[item.request]!.nextCoda += ready.count
            let known = requests[item.request]!.depths.count
            requests[item.request]!.depths += ready.depths.dropFirst(max(0, known - position))
            pass(
                Item(
                    request: item.request, attempt: item.attempt, stage: .coda, position: position,
                    count: ready.count, tensor: ready.tensor, enqueued: now),
                outcomeHandedTo: position == item.position ? handedTo : "")
        }
    }

    private mutating func note(_ id: UInt64, _ position: Int, _ distribution: [Float]) {
        guard requests[id]!.job.wantsDistributions else { return }
        let missing = position + 1 - requests[id]!.distributions.count
        if missing > 0 { requests[id]!.distributions += [[Float]](repeating: [], count: missing) }
        if requests[id]!.distributions[position].isEmpty { requests[id]!.distributions[position] = distribution }
    }

    /// The coda has seen the chunk: log-probabilities or the next token.
    private mutating func finishChunk(
        _ item: Item, _ result: Anira_Worker_V1_CodaResult, _ tensor: Frame?, handedTo: String
    ) {
        let end = item.position + item.count
        // A result before it was lost: what it said is needed first.
        let done = requests[item.request]!.done
        guard item.position == done else { return replay(item.request, from: done) }
        requests[item.request]!.chunksInFlight -= 1
        if handedTo.isEmpty { requests[item.request]!.handedOver = nil }
        requests[item.request]!.done = end
        cost.finish(depths: requests[item.request]!.depths[item.position..<end])
        let request = requests[item.request]!
        if request.job.kind == .score {
            guard result.logprobs.count == min(end, request.logprobs.count) - item.position,
                !request.job.wantsLogits || tensor?.count == item.count * configuration.model.vocabSize * 4
            else { return fail(item.request, .internal, "the coda answered with a result of the wrong shape") }
            requests[item.request]!.logprobs.replaceSubrange(
                item.position..<(item.position + result.logprobs.count), with: result.logprobs)
            if request.job.wantsLogits { requests[item.request]!.logits[item.position] = tensor }
        } else if end == request.tokens.count, request.newTokens.count < request.job.maxNewTokens {
            guard result.sampled else {
                return fail(item.request, .internal, "the coda answered without the token it owes")
            }
            guard result.token >= 0, result.token < configuration.model.vocabSize else {
                return fail(item.request, .internal, "the coda answered with a token outside the vocabulary")
            }
            emit(item.request, result.token, result.logprob)
        }
        if requests[item.request] != nil { pump(item.request, handedTo: handedTo) }
    }

    /// A new token: to the client now, to the model next.
    private mutating func emit(_ id: UInt64, _ token: Int32, _ logprob: Float) {
        requests[id]!.tokens.append(token)
        if requests[id]!.job.wantsLogprobs { requests[id]!.newLogprobs.append(logprob) }
        let request = requests[id]!
        if isFinished(request) != nil { requests[id]!.frontier = request.tokens.count }
        for client in request.clients where !client.isREQ && request.job.stream != false {
            var message = Anira_V1_Token()
            message.index = Int32(request.newTokens.count - 1)
            message.token = token
            message.text = configuration.vocabulary?.text(of: [token]) ?? ""
            message.depth = Int32(request.depths[request.tokens.count - 2])
            if request.job.wantsLogprobs { message.logprob = logprob }
            if request.job.wantsDistributions {
                message.exitDistribution = request.distribution(request.tokens.count - 2)
            }
            reply(request.clientID, .token(message), to: client)
        }
    }

    private func isFinished(_ request: Request) -> String? {
        if let last = request.newTokens.last, request.job.stopTokens.contains(last) { return "stop" }
        if request.newTokens.count >= request.job.maxNewTokens { return "length" }
        return request.tokens.count > configuration.model.maxPositionEmbeddings ? "context" : nil
    }

    private mutating func finishIfDone(_ id: UInt64) {
        guard let request = requests[id] else { return }
        if request.job.kind == .score {
            if request.done == request.tokens.count { finish(request, .scored(scored(request)), logits(request)) }
        } else if let reason = isFinished(request),
            request.done >= request.tokens.count - (request.newTokens.isEmpty ? 0 : 1)
        {
            finish(request, .completed(completed(request, reason)), [])
        }
    }

    /// Computes again from `position`: exact, so nothing that was said changes.
    mutating func replay(_ id: UInt64, from position: Int) {
        guard var request = requests[id] else { return }
        counters.replays += 1
        guard request.replays < 16 else {
            return fail(id, .unavailable, "its cache was lost \(request.replays) times; try again")
        }
        forgetItems(request)
        request.rewind(to: min(position, request.done), rowBytes: configuration.model.vocabSize * 4)
        requests[id] = request
        pump(id)
    }
}
