import Proto

/// The first frames of every message between Router and workers, made once: [tag][command].
public func workerFrames(_ command: WorkerCommand) -> [Frame] { [tag, commands[Int(command.rawValue)]] }

private let tag = Frame(workerProtocolTag)
private let commands = (UInt8(0)...(WorkerCommand.allCases.map(\.rawValue).max() ?? 0)).map { Frame([$0]) }
