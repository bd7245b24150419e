/// The tasks there are.
public enum TaskName: String, Sendable, Codable, CaseIterable {
    case mano, brevo, depo, lano
}

/// What can be set about a task. Nil is the default; `SequenceTask.options` has all values of a task filled in.
public struct TaskOptions: Sendable, Equatable, Codable {
    /// MANO: values are computed modulo this.
    public var modulus: Int?
    /// MANO: most operators of a training row.
    public var maxSize: Int?
    /// MANO: the end token after the value is a target too.
    public var supervisesEnd: Bool?
    /// BREVO, DEPO: node names there are, N; most nodes of a row.
    public var nodes: Int?
    /// DEPO: most hops of a query, K.
    public var hops: Int?
    /// DEPO: most queries of a row, M.
    public var queries: Int?

    public init(
        modulus: Int? = nil, maxSize: Int? = nil, supervisesEnd: Bool? = nil, nodes: Int? = nil, hops: Int? = nil,
        queries: Int? = nil
    ) {
        self.modulus = modulus
        self.maxSize = maxSize
        self.supervisesEnd = supervisesEnd
        self.nodes = nodes
        self.hops = hops
        self.queries = queries
    }

    /// The options that are set, by their names on the command line; a flag is 0 or 1.
    public var given: [(name: String, value: Int)] {
        [
            ("modulus", modulus), ("max-size", maxSize), ("supervises-end", supervisesEnd.map { $0 ? 1 : 0 }),
            ("nodes", nodes), ("hops", hops), ("queries", queries),
        ].compactMap { name, value in value.map { (name, $0) } }
    }

    /// Throws when an option is set that the task does not have.
    func check(only allowed: [String], for task: TaskName) throws(TaskError) {
        guard let foreign = given.map(\.name).first(where: { !allowed.contains($0) }) else { return }
        let list = allowed.isEmpty ? "no options" : allowed.joined(separator: ", ")
        throw TaskError(.option, "\(task.rawValue) has no option '\(foreign)'; it has \(list)")
    }
}

/// The task of this name, or an error that lists the names.
public func makeTask(name: String, options: TaskOptions = TaskOptions()) throws(TaskError) -> any SequenceTask {
    guard let name = TaskName(rawValue: name) else {
        let names = TaskName.allCases.map(\.rawValue).joined(separator: ", ")
        throw TaskError(.unknownTask, "there is no task '\(name)'; there are \(names)")
    }
    return try makeTask(name, options: options)
}

/// The task of this name; throws when an option does not fit it.
public func makeTask(_ name: TaskName, options: TaskOptions = TaskOptions()) throws(TaskError) -> any SequenceTask {
    switch name {
    case .mano: try Mano(options: options)
    case .brevo: try Brevo(options: options)
    case .depo: try Depo(options: options)
    case .lano: try Lano(options: options)
    }
}

/// The option's value, or its default; throws when it is outside the range.
func resolve(
    _ value: Int?, default standard: Int, in range: ClosedRange<Int>, _ option: String, of task: TaskName
) throws(TaskError) -> Int {
    let value = value ?? standard
    guard range.contains(value) else {
        throw TaskError(
            .option,
            "\(option) \(value) does not fit \(task.rawValue): it must be \(range.lowerBound)…\(range.upperBound)")
    }
    return value
}
