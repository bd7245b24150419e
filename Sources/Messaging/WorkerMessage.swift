import Proto

/// The first frames of every message between Router and workers, made once: [tag][command].
public func workerFrames(_ command: WorkerCommand) -> [Frame] { [tag, commands[Int(command.rawValue)]] }

private let tag = Frame(workerProtocolTag)
private let commands = (UInt8(0)...(WorkerCommand.allCases.map(\.rawValue).max() ?? 0)).map { Frame([$0]) }

/// A message whose tensor frames are missing, or do not fit its items.
public struct TensorMismatch: Error, CustomStringConvertible {
    public let description = "tensor frames do not fit the items"
}

/// The message that gives rows to a worker: [tag][work][items][tensors…].
public func workFrames(_ rows: [Work]) throws -> [Frame] {
    let batch = Anira_Worker_V1_WorkBatch.with { $0.items = rows.map(\.item) }
    let header = Frame(try batch.serializedBytes() as [UInt8])
    return workerFrames(.work) + [header] + Tensor.frames(rows.compactMap(\.tensor))
}

/// The items of such a message with their tensors, which came at `taken` (monotonic nanoseconds).
public func readWork(_ batch: Anira_Worker_V1_WorkBatch, _ tensors: ArraySlice<Frame>, taken: UInt64) throws -> [Work] {
    func takesTensor(_ item: Anira_Worker_V1_WorkItem) -> Bool {
        if case .decider = item.work { false } else { true }
    }
    let rows = batch.items.filter(takesTensor).map { Int($0.count) }
    guard var tensors = Tensor.read(tensors, rows: rows)?[...] else { throw TensorMismatch() }
    return batch.items.map { Work($0, tensor: takesTensor($0) ? tensors.popFirst() : nil, taken: taken) }
}

/// The message that gives results to the Router: [tag][result][items][tensors…].
public func resultFrames(_ outcomes: [Outcome]) throws -> [Frame] {
    let batch = Anira_Worker_V1_ResultBatch.with { $0.items = outcomes.map(\.item) }
    let header = Frame(try batch.serializedBytes() as [UInt8])
    return workerFrames(.result) + [header] + Tensor.frames(outcomes.compactMap(\.tensor))
}

/// The results of such a message with their tensors.
public func readOutcomes(_ header: [UInt8], _ tensors: ArraySlice<Frame>) throws -> [Outcome] {
    func hasTensor(_ item: Anira_Worker_V1_ResultItem) -> Bool {
        switch item.outcome {
        case .decider, .core: true
        case .coda(let coda): coda.logits
        case .needContext, .failure, nil: false
        }
    }
    let batch = try Anira_Worker_V1_ResultBatch(serializedBytes: header)
    let rows = batch.items.filter(hasTensor).map { Int($0.count) }
    guard var tensors = Tensor.read(tensors, rows: rows)?[...] else { throw TensorMismatch() }
    return batch.items.map { Outcome($0, tensor: hasTensor($0) ? tensors.popFirst() : nil) }
}
