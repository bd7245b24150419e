import ArgumentParser
import Foundation
import Tasks

extension Split: ExpressibleByArgument {}

struct DataCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "data", abstract: "Rows of a task as JSON lines (docs/tasks.md).",
        discussion: """
            Row i depends on nothing but the task with its options, split, seed, size and i, so any part of a data set \
            is made again alone: the second of these prints the last row of the first.
              anira data --task depo --split test --seed 7 --count 100 --size 50
              anira data --task depo --split test --seed 7 --start 99 --count 1 --size 50
            """)
    @OptionGroup var choice: TaskChoice
    @Option(help: "train, validation or test; they share no instance.") var split = Split.train
    @Option(help: "Seed of the data set.") var seed: UInt64 = 0
    @Option(help: "Rows to write.") var count = 10
    @Option(help: "Size of every row; by default each is drawn by the task's training law.") var size: Int?
    @Option(help: "Index of the first row.") var start: UInt64 = 0

    func validate() throws {
        guard count >= 0 else { throw ValidationError("--count must be 0 or more") }
        guard start <= UInt64.max - UInt64(count) else { throw ValidationError("--start + --count is beyond 64 bits") }
        // TaskChoice has said by now what is wrong with the task.
        guard let size else { return }
        do throws(TaskError) { try choice.chosen().check(size: size) } catch { throw ValidationError(error.message) }
    }

    func run() throws {
        let data = Dataset(task: try choice.chosen(), split: split, seed: seed)
        var output = LineOutput()
        do {
            for index in start..<start + UInt64(count) {
                try output.write(data.row(at: index, size: size).json(words: data.task.vocabulary))
            }
            try output.flush()
        } catch let error as TaskError {
            try output.flush()
            throw error
        }
    }
}

extension Row {
    /// The row as one line of JSON, keys in a fixed order.
    func json(words: [String]) -> String {
        let text = tokens.map { words[Int($0)] }.joined(separator: " ")
        return "{\"task\":\"\(task)\",\"size\":\(size),\"tokens\":\(jsonList(tokens)),\"text\":\"\(text)\","
            + "\"answer_mask\":\(jsonList(answerMask)),\"meta\":\(meta.json)}"
    }
}

extension RowMeta {
    /// The meta object of a row's line.
    var json: String {
        switch self {
        case .mano(let modulus, let value):
            "{\"modulus\":\(modulus),\"value\":\(value)}"
        case .brevo(let edges, let query, let answer):
            "{\"edges\":\(jsonList(edges.map(\.json))),\"query\":\(query),\"answer\":\(jsonList(answer))}"
        case .depo(let edges, let queries):
            "{\"edges\":\(jsonList(edges.map(\.json))),\"queries\":\(jsonList(queries.map(\.json)))}"
        case .lano(let derivation):
            "{\"derivation\":\(derivation)}"
        }
    }
}

extension Edge {
    fileprivate var json: String { "[\(from),\(to)]" }
}

extension Hop {
    fileprivate var json: String { "{\"start\":\(start),\"k\":\(k),\"answer\":\(answer)}" }
}

/// A JSON list of what prints as JSON already: numbers, or text in JSON's form.
private func jsonList(_ values: [some CustomStringConvertible]) -> String {
    "[" + values.map(\.description).joined(separator: ",") + "]"
}
