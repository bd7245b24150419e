import Proto

/// The first frames of every message between Router and workers, made once: [tag][command].
public func workerFrames(_ command: WorkerCommand) -> [Frame] { [tag, commands[Int(command.rawValue)]] }

/// The message that gives rows to a worker: [tag][work][items][tensors…].
public func workFrames(_ rows: [Work]) throws -> [Frame] {
    let batch = Anira_Worker_V1_WorkBatch.with { $0.items = rows.map(\.item) }
    return workerFrames(.work) + [Frame(try batch.serializedBytes() as [UInt8])] + rows.compactMap(\.tensor)
}

private let tag = Frame(workerProtocolTag)
private let commands = (UInt8(0)...(WorkerCommand.allCases.map(\.rawValue).max() ?? 0)).map { Frame([$0]) }
