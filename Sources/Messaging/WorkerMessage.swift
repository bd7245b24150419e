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
    let tensors = try Tensor.read(tensors, rows: batch.items.map(\.tensorRows))
    return zip(batch.items, tensors).map { Work($0, tensor: $1, taken: taken) }
}

/// The message that gives results to the Router: [tag][result][items][tensors…].
public func resultFrames(_ outcomes: [Outcome]) throws -> [Frame] {
    let batch = Anira_Worker_V1_ResultBatch.with { $0.items = outcomes.map(\.item) }
    let header = Frame(try batch.serializedBytes() as [UInt8])
    return workerFrames(.result) + [header] + Tensor.frames(outcomes.compactMap(\.tensor))
}

/// The results of such a message with their tensors.
public func readOutcomes(_ header: [UInt8], _ tensors: ArraySlice<Frame>) throws -> [Outcome] {
    let batch = try Anira_Worker_V1_ResultBatch(serializedBytes: header)
    let tensors = try Tensor.read(tensors, rows: batch.items.map(\.tensorRows))
    return zip(batch.items, tensors).map { Outcome($0, tensor: $1) }
}

extension Anira_Worker_V1_WorkItem {
    /// Rows of its tensor; nil: it has none.
    fileprivate var tensorRows: Int? {
        if case .decider = work { nil } else { Int(count) }
    }
}

extension Anira_Worker_V1_ResultItem {
    /// Rows of its tensor; nil: it has none.
    fileprivate var tensorRows: Int? {
        switch outcome {
        case .decider, .core: Int(count)
        case .coda(let coda): coda.logits ? Int(count) : nil
        case .needContext, .failure, nil: nil
        }
    }
}
