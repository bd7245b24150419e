import Testing

@testable import Tasks

@Suite struct ScoreTests {
    @Test(arguments: TaskName.allCases)
    func theAnswerItselfScoresOne(name: TaskName) throws {
        let task = try makeTask(name)
        let row = try Dataset(task: task, split: .test, seed: 5).row(at: 1)
        let score = task.score(row, predicted: row.answer)
        #expect(score.isExact)
        #expect(score.tokenShare == 1)
        #expect(score.correct.count == row.difficulty.count)
        #expect((score.isValidOrder != nil) == (name == .brevo))
    }

    @Test(arguments: TaskName.allCases)
    func aWrongAMissingAndASuperfluousTokenAreNotExact(name: TaskName) throws {
        let task = try makeTask(name)
        let row = try Dataset(task: task, split: .test, seed: 5).row(at: 2)
        let wrong = task.score(row, predicted: [0] + row.answer.dropFirst())
        #expect(!wrong.isExact)
        #expect(wrong.correct == [false] + [Bool](repeating: true, count: row.answer.count - 1))
        let cut = task.score(row, predicted: row.answer.dropLast())
        #expect(!cut.isExact)
        #expect(cut.correct.last == false)
        let long = task.score(row, predicted: row.answer + [2])
        #expect(!long.isExact)
        #expect(long.tokenShare == 1)
        #expect(task.score(row, predicted: []).tokenShare == 0)
    }

    @Test func valuesOfOtherRowsScoreAtTheGuessBaseline() throws {
        let mano = try Mano()
        let rows = instances(mano, size: 10, count: 2000)
        let shuffled = zip(rows, rows.dropFirst()).map { mano.score($0, predicted: $1.answer).isExact ? 1 : 0 }
        let same = mano.valueDistribution(size: 10).reduce(0) { $0 + $1 * $1 }
        #expect(Sample(shuffled).isNear(same))
        let zero = rows.map { mano.score($0, predicted: [7]).isExact ? 1 : 0 }
        #expect(Sample(zero).isNear(mano.guessBaseline(size: 10)))
    }

    @Test func guessedSuccessorsScoreAtTheGuessBaseline() throws {
        let depo = try Depo()
        var rng = CounterRNG(seed: 1, stream: 0, index: 0)
        let shares = instances(depo, size: 20, count: 300).map { row in
            let nodes = row.tokens[1...40].map(\.self)
            let guesses = row.answer.map { _ in nodes[rng.below(40)] }
            return depo.score(row, predicted: guesses).tokenShare
        }
        #expect(Sample(shares).isNear(depo.guessBaseline(size: 20)))
    }
}
