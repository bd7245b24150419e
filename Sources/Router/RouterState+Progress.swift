import Messaging
import Model
import Proto

/// Moving requests forward: chunks out, results in, answers to the client.
extension RouterState {
    /// Sends chunks to the decider while the window has room. handedTo: the decider that has been given the token drawn last
    /// already.
    mutating func pump(_ request: Request, handedTo: String = "") {
        request.waiting = false
        while request.chunksInFlight < configuration.window, request.frontier < request.tokens.count {
            let end = request.chunkEnd(from: request.frontier, limit: configuration.chunk)
            let item = Item(
                request: request.id, attempt: request.attempt, stage: .decider, position: request.frontier,
                count: end - request.frontier, enqueued: now)
            request.frontier = end
            request.chunksInFlight += 1
            pass(item, of: request, outcomeHandedTo: handedTo)
            guard isRunning(request) else { return }
        }
        if request.chunksInFlight == 0 { finishIfDone(request) }
    }

    /// Whether it has not ended, nor begun anew after an earlier one of its session.
    private func isRunning(_ request: Request) -> Bool { requests[request.id] === request }

    mutating func take(_ outcomes: [Outcome], _ address: WorkerAddress) {
        guard let worker = workerAt[address] else {
            counters.lateResults += outcomes.count
            return
        }
        worker.lastHeard = now
        for outcome in outcomes { settle(outcome, worker) }
    }

    private mutating func settle(_ outcome: Outcome, _ worker: Worker) {
        let key = ItemKey(request: outcome.item.request, stage: worker.stage, position: Int(outcome.item.position))
        guard let item = worker.settle(key, attempt: outcome.item.attempt), let request = requests[item.request],
            request.attempt == item.attempt
        else {
            if !keepAhead(outcome, worker) { counters.lateResults += 1 }
            return
        }
        let times = ItemTimes(outcome.item, settled: now)
        request.clock.add(worker.stage, times, handedOver: !outcome.item.handedTo.isEmpty)
        if configuration.traces { actions.append(.trace(span(item, of: request, worker, times))) }
        advance(request, item, outcome, from: worker)
    }

    private mutating func advance(_ request: Request, _ item: Item, _ outcome: Outcome, from worker: Worker) {
        let width = configuration.model.hiddenSize
        switch (item.stage, outcome.item.outcome) {
        case (_, .needContext(let need)):
            replay(request, from: min(Int(need.from), item.position))
        case (_, .failure(let failure)):
            fail(item.request, ErrorCode(rawValue: failure.code) ?? .internal, "\(worker.name): \(failure.message)")
        case (.decider, .decider(let result)) where outcome.tensor?.count == item.count * width * 4:
            forward(
                request, item, depths: Array(result.depths), distributions: result.distributions, outcome.tensor,
                handedTo: outcome.item.handedTo)
        case (.core, .core(let result))
        where outcome.tensor?.count == item.count * width * 4 && result.depths.count == item.count
            && result.depths.allSatisfy({ (1...configuration.model.maxDepth).contains(Int($0)) }):
            leaveCore(
                request, item, Array(result.depths), result.distributions, outcome.tensor,
                handedTo: outcome.item.handedTo)
        case (.coda, .coda(let result)):
            finishChunk(request, item, result, outcome.tensor, handedTo: outcome.item.handedTo)
        default:
            counters.malformed += 1
            fail(item.request, .internal, "the \(item.stage.rawValue) answered with a result of the wrong shape")
        }
    }

    /// decider → core.
    private mutating func forward(
        _ request: Request, _ item: Item, depths: [UInt8], distributions: [Float], _ tensor: Tensor?, handedTo: String
    ) {
        let k = configuration.model.maxDepth
        guard depths.isEmpty || depths.count == item.count else {
            return fail(item.request, .internal, "the decider answered with a result of the wrong shape")
        }
        if distributions.count == item.count * k {
            for row in 0..<item.count {
                note(request, item.position + row, Array(distributions[(row * k)..<((row + 1) * k)]))
            }
        }
        var next = Item(
            request: item.request, attempt: item.attempt, stage: .core, position: item.position, count: item.count,
            tensor: tensor, enqueued: now)
        next.depths = depths.isEmpty ? nil : depths
        pass(next, of: request, outcomeHandedTo: handedTo)
    }

    /// The rows' next stage: leased to the worker that was handed them, or handed out from here.
    private mutating func pass(_ item: Item, of request: Request, outcomeHandedTo handedTo: String) {
        guard !handedTo.isEmpty, let worker = workers[request.pins[item.stage.index]], worker.state != .lost,
            worker.address.elementsEqual(handedTo.utf8)
        else { return enqueue(item) }
        var item = item
        item.isContinued = item.stage == .decider
        worker.lease(item)
        guard request.handedOver != nil else { return }
        request.handedOver!.position = item.position
        request.handedOver!.stage = item.stage
        let index = request.handedOver!.ahead.firstIndex {
            $0.from == worker.address && Int($0.outcome.item.position) == item.position
        }
        guard let index else { return }
        settle(request.handedOver!.ahead.remove(at: index).outcome, worker)
    }

    private func span(_ item: Item, of request: Request, _ worker: Worker, _ times: ItemTimes) -> TraceSpan {
        TraceSpan(
            request: request.id, id: request.clientID, worker: worker.name, process: worker.pid, stage: item.stage,
            attempt: item.attempt, position: item.position, count: item.count, isContinued: item.isContinued,
            times: times)
    }

    /// Keeps a result that came before those of the stages ahead of it; false when it is late.
    private mutating func keepAhead(_ outcome: Outcome, _ worker: Worker) -> Bool {
        let position = Int(outcome.item.position)
        guard let request = requests[outcome.item.request],
            request.attempt == outcome.item.attempt, let waiting = request.handedOver,
            (position, worker.stage.index) > (waiting.position, waiting.stage.index),
            position < request.tokens.count + configuration.continuation,
            !waiting.ahead.contains(where: { $0.from == worker.address && $0.outcome.item.position == position })
        else { return false }
        request.handedOver!.ahead.append((outcome, worker.address))
        return true
    }

    /// core → coda, in the order of positions even when a later chunk's rows left the core first.
    private mutating func leaveCore(
        _ request: Request, _ item: Item, _ depths: [UInt8], _ distributions: [Float], _ tensor: Tensor?,
        handedTo: String
    ) {
        var offset = 0
        for (row, depth) in depths.enumerated() {
            let end = offset + Int(depth)
            if end <= distributions.count {
                note(request, item.position + row, Array(distributions[offset..<end]))
            }
            offset = end
        }
        request.early[item.position] = (item.count, depths, tensor)
        while isRunning(request), let ready = request.early.removeValue(forKey: request.nextCoda) {
            let position = request.nextCoda
            request.nextCoda += ready.count
            request.depths += ready.depths.dropFirst(max(0, request.depths.count - position))
            pass(
                Item(
                    request: item.request, attempt: item.attempt, stage: .coda, position: position,
                    count: ready.count, tensor: ready.tensor, enqueued: now), of: request,
                outcomeHandedTo: position == item.position ? handedTo : "")
        }
    }

    private func note(_ request: Request, _ position: Int, _ distribution: [Float]) {
        guard request.job.wantsDistributions else { return }
        let missing = position + 1 - request.distributions.count
        if missing > 0 { request.distributions += [[Float]](repeating: [], count: missing) }
        if request.distributions[position].isEmpty { request.distributions[position] = distribution }
    }

    /// The coda has seen the chunk: log-probabilities or the next token.
    private mutating func finishChunk(
        _ request: Request, _ item: Item, _ result: Anira_Worker_V1_CodaResult, _ tensor: Tensor?, handedTo: String
    ) {
        let end = item.position + item.count
        // A result before it was lost: what it said is needed first.
        guard item.position == request.done else { return replay(request, from: request.done) }
        request.chunksInFlight -= 1
        if handedTo.isEmpty { request.handedOver = nil }
        request.done = end
        cost.finish(depths: request.depths[item.position..<end])
        if request.job.kind == .score {
            guard result.logprobs.count == min(end, request.logprobs.count) - item.position,
                !request.job.wantsLogits || tensor?.count == item.count * configuration.model.vocabSize * 4
            else { return fail(item.request, .internal, "the coda answered with a result of the wrong shape") }
            request.logprobs.replaceSubrange(
                item.position..<(item.position + result.logprobs.count), with: result.logprobs)
            if request.job.wantsLogits { request.logits[item.position] = tensor }
        } else if end == request.tokens.count, request.newTokens.count < request.job.maxNewTokens {
            guard result.sampled else {
                return fail(item.request, .internal, "the coda answered without the token it owes")
            }
            guard result.token >= 0, result.token < configuration.model.vocabSize else {
                return fail(item.request, .internal, "the coda answered with a token outside the vocabulary")
            }
            emit(request, result.token, result.logprob)
        }
        pump(request, handedTo: handedTo)
    }

    /// A new token: to the client now, to the model next.
    private mutating func emit(_ request: Request, _ token: Int32, _ logprob: Float) {
        request.tokens.append(token)
        if request.job.wantsLogprobs { request.newLogprobs.append(logprob) }
        if isFinished(request) != nil { request.frontier = request.tokens.count }
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

    private mutating func finishIfDone(_ request: Request) {
        if request.job.kind == .score {
            if request.done == request.tokens.count { finish(request, .scored(scored(request)), logits(request)) }
        } else if let reason = isFinished(request),
            request.done >= request.tokens.count - (request.newTokens.isEmpty ? 0 : 1)
        {
            finish(request, .completed(completed(request, reason)), [])
        }
    }

    /// Computes again from `position`: exact, so nothing that was said changes.
    private mutating func replay(_ request: Request, from position: Int) {
        counters.replays += 1
        guard request.replays < 16 else {
            return fail(request.id, .unavailable, "its cache was lost \(request.replays) times; try again")
        }
        forgetItems(request)
        request.rewind(to: min(position, request.done), rowBytes: configuration.model.vocabSize * 4)
        pump(request)
    }
}
