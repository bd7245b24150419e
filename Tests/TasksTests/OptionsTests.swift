import Foundation
import Testing

@testable import Tasks

@Suite struct OptionsTests {
    @Test(arguments: [
        (TaskName.mano, TaskOptions(modulus: 23, maxSize: 16, supervisesEnd: false)), (.brevo, TaskOptions(nodes: 30)),
        (.depo, TaskOptions(nodes: 75, hops: 8, queries: 10)), (.lano, TaskOptions()),
    ])
    func defaultsAreFilledIn(name: TaskName, options: TaskOptions) throws {
        #expect(try makeTask(name: name.rawValue).options == options)
    }

    @Test(arguments: [
        (TaskName.mano, TaskOptions(modulus: 7, maxSize: 4, supervisesEnd: true)), (.brevo, TaskOptions(nodes: 9)),
        (.depo, TaskOptions(nodes: 20, hops: 5, queries: 3)), (.lano, TaskOptions()),
    ])
    func storedOptionsMakeTheSameRows(name: TaskName, options: TaskOptions) throws {
        let task = try makeTask(name, options: options)
        let stored = try JSONEncoder().encode(task.options)
        let again = try makeTask(name, options: try JSONDecoder().decode(TaskOptions.self, from: stored))
        #expect(again.vocabulary == task.vocabulary)
        for index in 0..<5 {
            let rows = try [task, again].map { try Dataset(task: $0, split: .train, seed: 1).row(at: UInt64(index)) }
            #expect(rows[0] == rows[1])
        }
    }

    @Test(arguments: [
        (TaskName.mano, TaskOptions(nodes: 5), "nodes"), (.lano, TaskOptions(hops: 2), "hops"),
        (.brevo, TaskOptions(hops: 2), "hops"), (.depo, TaskOptions(modulus: 2), "modulus"),
        (.mano, TaskOptions(modulus: 1), "2…1000"), (.mano, TaskOptions(maxSize: 0), "1…253"),
        (.brevo, TaskOptions(nodes: 2), "3…999"), (.depo, TaskOptions(nodes: 1000), "3…999"),
        (.depo, TaskOptions(hops: 0), "1…999"), (.depo, TaskOptions(queries: -1), "1…999"),
    ])
    func anOptionThatDoesNotFitIsNamed(name: TaskName, options: TaskOptions, word: String) {
        let error = #expect(throws: TaskError.self) { try makeTask(name, options: options) }
        #expect(error?.code == .option)
        #expect(error?.message.contains(word) == true)
        #expect(error?.message.contains(name.rawValue) == true)
    }

    @Test func anUnknownTaskIsAnsweredWithTheNames() {
        let error = #expect(throws: TaskError.self) { try makeTask(name: "chess") }
        #expect(error?.code == .unknownTask)
        #expect(error?.message == "there is no task 'chess'; there are mano, brevo, depo, lano")
    }

    @Test(arguments: TaskName.allCases)
    func vocabulariesAreWordsThatComeBack(name: TaskName) throws {
        let task = try makeTask(name)
        #expect(task.vocabulary.prefix(3) == ["<pad>", "<bos>", "<eos>"])
        #expect(Set(task.vocabulary).count == task.vocabulary.count)
        #expect(task.vocabulary.allSatisfy { !$0.isEmpty && !$0.contains(where: \.isWhitespace) })
        let row = try Dataset(task: task, split: .train, seed: 1).row(at: 0)
        #expect(try task.tokens(of: task.text(of: row.tokens)) == row.tokens)
        #expect(throws: TaskError(.word, "'<len_2>' is not a word of \(name.rawValue)")) {
            try task.tokens(of: "<bos> <len_2>")
        }
    }

    @Test(arguments: [(TaskName.mano, 37), (.brevo, 254), (.depo, 202), (.lano, 434)])
    func longestRowsAreTheDocumentedOnes(name: TaskName, tokens: Int) throws {
        #expect(try makeTask(name).longestRow == tokens)
    }

    @Test func nodeWordsSortLikeTheirNumbers() throws {
        #expect(nodeWords(9).first == "n01")
        #expect(nodeWords(120).first == "n001")
        #expect(nodeWords(120) == nodeWords(120).sorted())
    }
}
