import ArgumentParser
import Tasks

/// The options of the tasks.
struct TaskArguments: ParsableArguments {
    @Option(help: "MANO: values are computed modulo this (the benchmark's: 23).") var modulus: Int?
    @Option(help: "MANO: most operators of a training row (16).") var maxSize: Int?
    @Flag(help: "MANO: the end token after the value is a target too.") var supervisesEnd = false
    @Option(help: "BREVO, DEPO: node names, and most nodes of a row (30 and 75).") var nodes: Int?
    @Option(help: "DEPO: most hops of a query (8).") var hops: Int?
    @Option(help: "DEPO: most queries of a row (10).") var queries: Int?

    /// Sets what was given.
    func apply(to options: inout TaskOptions) {
        options.modulus = modulus ?? options.modulus
        options.maxSize = maxSize ?? options.maxSize
        options.supervisesEnd = supervisesEnd ? true : options.supervisesEnd
        options.nodes = nodes ?? options.nodes
        options.hops = hops ?? options.hops
        options.queries = queries ?? options.queries
    }
}

/// A task with its options.
struct TaskChoice: ParsableArguments {
    @Option(help: "The task: mano, brevo, depo or lano.") var task: String
    @OptionGroup(title: "Task options") var arguments: TaskArguments

    func chosen() throws(TaskError) -> any SequenceTask {
        var options = TaskOptions()
        arguments.apply(to: &options)
        return try makeTask(name: task, options: options)
    }

    func validate() throws {
        do throws(TaskError) { _ = try chosen() } catch { throw ValidationError(error.message) }
    }
}
