import Tasks

/// Accuracy and depth by difficulty: where a model's compute goes on a task (paper 5.3).
///
/// The depth of an answer token is that of the position before it, which predicts it. Question tokens are the positions
/// whose next token is given, up to the last target.
public struct DepthTable: Sendable {
    /// Sums over the answers of one difficulty.
    public struct Entry: Sendable {
        /// Answers counted: whole answers where a task has several tokens to an answer, single targets otherwise.
        public private(set) var answers = 0
        private var right = 0
        private var targets = 0
        private var rightTargets = 0
        private var answerDepth = 0
        private var questionTokens = 0
        private var questionDepth = 0
        private var tokens = 0
        private var depth = 0
        private var guess = 0.0

        /// Share of right answers, 0…1.
        public var accuracy: Double { ratio(right, answers) }
        /// Share of right answer tokens, 0…1.
        public var tokenAccuracy: Double { ratio(rightTargets, targets) }
        /// Mean depth where answer tokens are predicted.
        public var answerMeanDepth: Double { ratio(answerDepth, targets) }
        /// Mean depth of question tokens.
        public var questionMeanDepth: Double { ratio(questionDepth, questionTokens) }
        /// Mean depth of all positions of the rows.
        public var meanDepth: Double { ratio(depth, tokens) }
        /// What guessing would reach, 0…1.
        public var guessBaseline: Double { guess / Double(max(answers, 1)) }

        private func ratio(_ sum: Int, _ count: Int) -> Double { Double(sum) / Double(max(count, 1)) }

        fileprivate mutating func add(
            answers: Int, right: Int, targets correct: [Bool], answerDepths: [Int], question: [Int], all: [Int],
            guess: Double
        ) {
            self.answers += answers
            self.right += right
            targets += correct.count
            rightTargets += correct.count { $0 }
            answerDepth += answerDepths.reduce(0, +)
            questionTokens += question.count
            questionDepth += question.reduce(0, +)
            tokens += all.count
            depth += all.reduce(0, +)
            self.guess += guess * Double(answers)
        }
    }

    /// By difficulty: MANO operators, BREVO nodes, DEPO hops, LANO length in bins of 50.
    public private(set) var entries: [Int: Entry] = [:]
    /// Depth at every target, and mean depth of the question before it, with the difficulty.
    public private(set) var answerDepths: [(difficulty: Int, depth: Int)] = []
    public private(set) var questionDepths: [(difficulty: Int, depth: Double)] = []
    /// All rows together, each counted once.
    public private(set) var total = Entry()
    private let task: any SequenceTask
    /// How often each answer was the right one, by difficulty.
    private var answerCounts: [Int: [[Int32]: Int]] = [:]
    private var guesses: [Int: Double] = [:]

    public init(_ task: any SequenceTask) { self.task = task }

    /// Adds one row. predictions: the most probable token at each target, in order; depths: of every position.
    public mutating func add(_ row: Row, predictions: [Int32], depths: [Int]) {
        let score = task.score(row, predicted: predictions)
        let targets = row.targets
        let last = targets.last ?? 0
        let guess = guesses[row.size] ?? task.guessBaseline(size: row.size)
        guesses[row.size] = guess
        let question = (0..<min(last, depths.count)).filter { row.answerMask[$0 + 1] == 0 }.map { depths[$0] }
        let questionMean = Double(question.reduce(0, +)) / Double(max(question.count, 1))
        for (target, difficulty) in zip(targets, row.difficulty) {
            answerDepths.append((difficulty, depths[target - 1]))
            questionDepths.append((difficulty, questionMean))
        }
        // A whole answer counts as one where the task has one answer a row.
        let whole = task.name == .brevo || task.name == .mano
        total.add(
            answers: whole ? 1 : targets.count,
            right: whole ? (score.isExact ? 1 : 0) : score.correct.count { $0 }, targets: score.correct,
            answerDepths: targets.map { depths[$0 - 1] }, question: question, all: depths, guess: guess)
        for difficulty in Set(row.difficulty).sorted() {
            let here = row.difficulty.indices.filter { row.difficulty[$0] == difficulty }
            let correct = here.map { score.correct[$0] }
            let label = task.name == .lano ? difficulty / 50 * 50 : difficulty
            entries[label, default: Entry()].add(
                answers: whole ? 1 : here.count, right: whole ? (score.isExact ? 1 : 0) : correct.count { $0 },
                targets: correct, answerDepths: here.map { depths[targets[$0] - 1] }, question: question, all: depths,
                guess: guess)
            if whole {
                answerCounts[label, default: [:]][row.answer, default: 0] += 1
            } else {
                for index in here { answerCounts[label, default: [:]][[row.answer[index]], default: 0] += 1 }
            }
        }
    }

    /// Share of the commonest answer of a difficulty: what always giving it would reach.
    public func majorityBaseline(_ difficulty: Int) -> Double {
        guard let counts = answerCounts[difficulty], let entry = entries[difficulty] else { return 0 }
        return Double(counts.values.max() ?? 0) / Double(max(entry.answers, 1))
    }
}
