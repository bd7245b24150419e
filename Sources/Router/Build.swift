import Logging
import Messaging

/// Builds the Router: claims its data folder and reads the ledger. Tests and the command line call this.
public func buildRouter(
    _ options: RouterOptions, configuration: RouterState.Configuration, context: Context, log: Logger
) throws -> RouterService {
    try RouterService(options, configuration: configuration, context: context, log: log)
}
