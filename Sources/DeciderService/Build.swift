import Logging
import Messaging
import Model
import Worker

/// Builds a decider worker: its part of the checkpoint, its store, its stage. Tests and the command line call this.
public func buildDecider(
    _ configuration: WorkerConfiguration, checkpoint: Checkpoint, context: Context, log: Logger
) throws -> WorkerService {
    let part = try Prelude(checkpoint)
    return try WorkerService(configuration, checkpoint: checkpoint, context: context, log: log) {
        DeciderStage(part, store: $0, limits: configuration.limits, post: $1, handOver: $2)
    }
}
