import Foundation
import Testing

@testable import Tasks

@Suite struct DatasetTests {
    /// Tasks with small sizes, where instances are few enough to come twice.
    static let small: [(TaskName, TaskOptions, Int?)] = [
        (.mano, TaskOptions(), 1), (.mano, TaskOptions(modulus: 5), 2), (.brevo, TaskOptions(nodes: 5), 3),
        (.depo, TaskOptions(nodes: 6), 3), (.lano, TaskOptions(), nil),
    ]

    @Test(arguments: small)
    func splitsShareNoInstance(name: TaskName, options: TaskOptions, size: Int?) throws {
        let task = try makeTask(name, options: options)
        let count: UInt64 = name == .lano ? 20 : 300
        let hashes = try Split.allCases.map { split in
            // The same seed throughout: splits must not lean on their seeds.
            Set(
                try (0..<count).map {
                    try Dataset(task: task, split: split, seed: 4).row(at: $0, size: size).instanceHash
                })
        }
        #expect(hashes.allSatisfy { !$0.isEmpty })
        #expect(hashes[0].isDisjoint(with: hashes[1]))
        #expect(hashes[0].isDisjoint(with: hashes[2]))
        #expect(hashes[1].isDisjoint(with: hashes[2]))
    }

    /// Equal questions in two splits would have the same hash; this looks at the questions themselves.
    @Test func noExpressionOfTheTestSplitIsTrainedOn() throws {
        let mano = try Mano()
        let questions = try [Split.train, .test].map { split in
            let data = Dataset(task: mano, split: split, seed: 9)
            return Set(try (0..<1500).map { try data.row(at: $0, size: 1).tokens.dropLast(2) })
        }
        #expect(questions[0].count + questions[1].count > 800)
        #expect(questions[0].isDisjoint(with: questions[1]))
    }

    @Test func anEighthOfTheInstancesIsTestAndOneIsValidation() throws {
        let splits = instances(try Mano(), size: 8, count: 2000).map { row in
            Split.allCases.filter { $0.holds(row.instanceHash) }
        }
        #expect(splits.allSatisfy { $0.count == 1 })
        let counts = Split.allCases.map { split in splits.count { $0 == [split] } }
        #expect(chiSquareIsPlausible(counts, expected: [0.75, 0.125, 0.125]))
    }

    @Test(arguments: TaskName.allCases, Split.allCases)
    func aRowMadeAloneEqualsTheRowOfAStream(name: TaskName, split: Split) throws {
        let data = Dataset(task: try makeTask(name), split: split, seed: 21)
        let stream = try (0..<12).map { try data.row(at: $0) }
        let again = Dataset(task: try makeTask(name), split: split, seed: 21)
        for index in [11, 3, 7] {
            let row = try again.row(at: UInt64(index))
            #expect(row == stream[index])
            if again.task.choosableSizes != nil {
                #expect(try again.row(at: UInt64(index), size: row.size) == row)
            }
        }
        #expect(Set(stream.map(\.tokens)).count == 12)
    }

    @Test(arguments: TaskName.allCases)
    func seedsSplitsIndicesAndSizesGiveOtherRows(name: TaskName) throws {
        let task = try makeTask(name)
        let rows = try [(Split.train, 1, 0), (.train, 2, 0), (.test, 1, 0), (.validation, 1, 0), (.train, 1, 1)].map {
            try Dataset(task: task, split: $0.0, seed: UInt64($0.1)).row(at: UInt64($0.2)).tokens
        }
        #expect(Set(rows).count == rows.count)
    }

    /// Rows of published results must stay what they were: a change here is a change of all data.
    @Test(arguments: [
        (TaskName.mano, "<bos> * + 2 17 - 21 4 <ans> 1 <eos>"),
        (.brevo, "<bos> n20 n21 n20 n10 n10 n21 <query> n21 <ans> n20 n10 <eos>"),
        (.depo, "<bos> n54 n66 n66 n75 n75 n54 <query-7> n54 <ans> n66 <eoa> <query-5> n66 <ans> n54 <eoa>"),
        (.lano, "<bos> 3 2 3 1 3 2 1 3 2 1 1 2 3 3 1 2 1 2 3"),
    ])
    func rowsNeverChange(name: TaskName, text: String) throws {
        let data = Dataset(task: try makeTask(name), split: .test, seed: 1)
        let row = try data.row(at: 2, size: data.task.choosableSizes == nil ? nil : 3)
        #expect(data.task.text(of: row.tokens).hasPrefix(text))
    }

    @Test func manoSizesAreUniform() throws {
        let task = try Mano()
        let sizes = try (0..<1600).map { try Dataset(task: task, split: .train, seed: 2).row(at: $0).size }
        let counts = (1...16).map { size in sizes.count { $0 == size } }
        #expect(counts.reduce(0, +) == 1600)
        #expect(chiSquareIsPlausible(counts, expected: [Double](repeating: 1 / 16, count: 16)))
    }

    @Test(arguments: [30, 75])
    func graphSizesFollowTheSkewedLaw(largest: Int) {
        let law = SkewedSizes(largest: largest)
        var rng = CounterRNG(seed: 3, stream: 0, index: 0)
        let sizes = (0..<6000).map { _ in law.draw(using: &rng) }
        let counts = law.range.map { size in sizes.count { $0 == size } }
        #expect(counts.reduce(0, +) == 6000)
        let weights = law.range.map { 1 / (Double($0) + Double(largest).squareRoot()) }
        let expected = weights.map { $0 / weights.reduce(0, +) }
        #expect(chiSquareIsPlausible(counts, expected: expected))
        #expect(zip(law.range, expected).allSatisfy { abs(law.probability(of: $0) - $1) < 1e-12 })
    }

    @Test func theLawOfThirtyNodesHasThePublishedNumbers() {
        let law = SkewedSizes(largest: 30)
        #expect(abs(law.probability(of: 30) - 0.0187) < 0.00005)
        #expect(abs(law.range.reduce(0) { $0 + Double($1) * law.probability(of: $1) } - 13.1) < 0.05)
    }

    @Test func trainingRowsHaveSizesOfTheLaw() throws {
        for name in [TaskName.brevo, .depo] {
            let data = Dataset(task: try makeTask(name), split: .train, seed: 2)
            for index in 0..<40 {
                let row = try data.row(at: UInt64(index))
                #expect(data.task.trainingSizes.contains(row.size))
                #expect(row.tokens.count <= data.task.longestRow)
            }
        }
    }

    @Test func aSplitWithoutInstancesSaysSo() throws {
        // Three nodes have two cycles: at least one of the three splits is empty.
        let task = try Depo(options: TaskOptions(nodes: 3))
        let errors = Split.allCases.compactMap { split in
            do throws(TaskError) {
                _ = try Dataset(task: task, split: split, seed: 1).row(at: 0, size: 3)
                return nil as TaskError?
            } catch {
                return error
            }
        }
        #expect(!errors.isEmpty)
        #expect(errors.allSatisfy { $0.code == .emptySplit && $0.message.contains("size 3") })
    }

    @Test(arguments: [(TaskName.mano, 0), (.mano, 254), (.brevo, 2), (.brevo, 31), (.depo, 76), (.lano, 276)])
    func aSizeTheTaskCannotMakeIsAnError(name: TaskName, size: Int) throws {
        let data = Dataset(task: try makeTask(name), split: .train, seed: 1)
        let error = #expect(throws: TaskError.self) { try data.row(at: 0, size: size) }
        #expect(error?.code == .size)
        #expect(error?.message.contains(name.rawValue) == true)
    }
}
