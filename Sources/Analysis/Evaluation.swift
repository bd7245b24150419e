import Tasks

/// What a model was found to do on a task: by difficulty with its own depths, at every fixed depth, and along the
/// threshold dial (paper 5 and A.5).
public struct Evaluation: Codable, Sendable {
    /// One difficulty, or all together. Shares 0…1; depths in iterations.
    public struct Line: Codable, Sendable {
        /// MANO operators, BREVO nodes, DEPO hops, LANO length (bins of 50); nil for all together.
        public var difficulty: Int?
        public var answers: Int
        public var accuracy: Double
        public var tokenAccuracy: Double
        /// Where answer tokens are predicted, of question tokens, of all positions.
        public var answerDepth, questionDepth, meanDepth: Double
        /// What guessing reaches, and always giving the commonest answer.
        public var guessBaseline, majorityBaseline: Double?

        enum CodingKeys: String, CodingKey {
            case difficulty, answers, accuracy
            case tokenAccuracy = "token_accuracy"
            case answerDepth = "answer_depth"
            case questionDepth = "question_depth"
            case meanDepth = "mean_depth"
            case guessBaseline = "guess_baseline"
            case majorityBaseline = "majority_baseline"
        }
    }

    /// One setting of a dial: the fixed depth k, or the threshold q.
    public struct Point: Codable, Sendable {
        public var setting: Double
        public var total: Line
        public var byDifficulty: [Line]

        enum CodingKeys: String, CodingKey {
            case setting, total
            case byDifficulty = "by_difficulty"
        }
    }

    public var task: String
    public var model: String
    public var split: String
    public var seed: UInt64
    public var rows: Int
    /// K.
    public var maxDepth: Int
    public var adaptive: Point
    /// k = 1…K.
    public var fixed: [Point]
    public var sweep: [Point]
    /// Rank correlation of difficulty with the depth at the answer, and of question tokens, over all answers.
    public var answerDepthCorrelation, questionDepthCorrelation: Double?

    enum CodingKeys: String, CodingKey {
        case task, model, split, seed, rows, adaptive, fixed, sweep
        case maxDepth = "max_depth"
        case answerDepthCorrelation = "answer_depth_spearman"
        case questionDepthCorrelation = "question_depth_spearman"
        case fixedAccuracyAtMeanDepth = "fixed_accuracy_at_mean_depth"
    }

    /// What the fixed-depth curve reaches at the adaptive mean depth of all positions, between its points linearly;
    /// nil without the curve.
    public var fixedAccuracyAtMeanDepth: Double?

    public init(
        task: String, model: String, split: String, seed: UInt64, rows: Int, maxDepth: Int, adaptive: DepthTable,
        fixed: [Point], sweep: [Point]
    ) {
        (self.task, self.model, self.split, self.seed) = (task, model, split, seed)
        (self.rows, self.maxDepth, self.fixed, self.sweep) = (rows, maxDepth, fixed, sweep)
        self.adaptive = Point(setting: 0, adaptive)
        answerDepthCorrelation = spearman(adaptive.answerDepths.map { (Double($0.difficulty), Double($0.depth)) })
        questionDepthCorrelation = spearman(adaptive.questionDepths.map { (Double($0.difficulty), $0.depth) })
        fixedAccuracyAtMeanDepth = Self.accuracy(of: fixed, at: adaptive.total.meanDepth, maxDepth: maxDepth)
    }

    private static func accuracy(of fixed: [Point], at depth: Double, maxDepth: Int) -> Double? {
        guard fixed.count == maxDepth, maxDepth > 0 else { return nil }
        let depth = min(max(depth, 1), Double(maxDepth))
        let below = Int(depth)
        let share = depth - Double(below)
        guard share > 0 else { return fixed[below - 1].total.accuracy }
        return fixed[below - 1].total.accuracy * (1 - share) + fixed[below].total.accuracy * share
    }
}

extension Evaluation.Point {
    /// The figures of a table under one setting.
    public init(setting: Double, _ table: DepthTable) {
        self.setting = setting
        total = Evaluation.Line(nil, table.total, majority: nil)
        byDifficulty = table.entries.keys.sorted().map { difficulty in
            Evaluation.Line(difficulty, table.entries[difficulty]!, majority: table.majorityBaseline(difficulty))
        }
    }
}

extension Evaluation.Line {
    init(_ difficulty: Int?, _ entry: DepthTable.Entry, majority: Double?) {
        self.difficulty = difficulty
        answers = entry.answers
        accuracy = entry.accuracy
        tokenAccuracy = entry.tokenAccuracy
        answerDepth = entry.answerMeanDepth
        questionDepth = entry.questionMeanDepth
        meanDepth = entry.meanDepth
        guessBaseline = entry.guessBaseline
        majorityBaseline = majority
    }
}
