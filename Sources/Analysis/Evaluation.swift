import Tasks

/// What a model was found to do on a task: by difficulty with its own depths, at every fixed depth, and along the
/// threshold dial (paper 5 and A.5).
public struct Evaluation: Encodable, Sendable {
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

    /// What was measured under which settings.
    public struct Conditions: Encodable, Sendable {
        public var task: String
        /// Of the task, by their names on the command line.
        public var options: [String: Int]
        /// Those that the model was trained with, where they are known and others.
        public var trainedOptions: [String: Int]?
        public var model: String
        /// Of configuration and weights, with the type that products hold them in.
        public var fingerprint: String
        /// How keys and values are held; nil: the suite knows.
        public var kv: String?
        /// The depth policy in words.
        public var policy: String
        public var split: String
        public var seed: UInt64
        public var rows: Int
        /// Small tasks have fewer instances than rows were asked for.
        public var distinctRows: Int

        enum CodingKeys: String, CodingKey {
            case task, options, model, fingerprint, kv, policy, split, seed, rows
            case trainedOptions = "trained_options"
            case distinctRows = "distinct_rows"
        }

        public init(
            _ task: any SequenceTask, trained: TaskOptions?, model: String, fingerprint: String, kv: String?,
            policy: String, split: Split, seed: UInt64, rows: [Row]
        ) {
            func named(_ options: TaskOptions) -> [String: Int] {
                Dictionary(uniqueKeysWithValues: options.given.map { ($0.name, $0.value) })
            }
            self.task = task.name.rawValue
            options = named(task.options)
            trainedOptions = trained.flatMap { $0 == task.options ? nil : named($0) }
            (self.model, self.fingerprint, self.kv, self.policy) = (model, fingerprint, kv, policy)
            (self.split, self.seed) = (split.rawValue, seed)
            self.rows = rows.count
            distinctRows = Set(rows.map(\.tokens)).count
        }
    }

    public var conditions: Conditions
    /// K.
    public var maxDepth: Int
    public var adaptive: Point
    /// k = 1…K.
    public var fixed: [Point]
    public var sweep: [Point]
    /// Rank correlation of difficulty with the depth at the answer, and of question tokens, over all answers.
    public var answerDepthCorrelation, questionDepthCorrelation: Double?

    enum CodingKeys: String, CodingKey {
        case adaptive, fixed, sweep
        case maxDepth = "max_depth"
        case answerDepthCorrelation = "answer_depth_spearman"
        case questionDepthCorrelation = "question_depth_spearman"
        case fixedAccuracyAtMeanDepth = "fixed_accuracy_at_mean_depth"
    }

    /// What the fixed-depth curve reaches at the adaptive mean depth of all positions, between its points linearly;
    /// nil without the curve.
    public var fixedAccuracyAtMeanDepth: Double?

    public init(_ conditions: Conditions, maxDepth: Int, adaptive: DepthTable, fixed: [Point], sweep: [Point]) {
        (self.conditions, self.maxDepth, self.fixed, self.sweep) = (conditions, maxDepth, fixed, sweep)
        self.adaptive = Point(setting: 0, adaptive)
        answerDepthCorrelation = spearman(adaptive.answerDepths.map { (Double($0.difficulty), Double($0.depth)) })
        questionDepthCorrelation = spearman(adaptive.questionDepths.map { (Double($0.difficulty), $0.depth) })
        fixedAccuracyAtMeanDepth = Self.accuracy(of: fixed, at: adaptive.total.meanDepth, maxDepth: maxDepth)
    }

    /// The conditions' fields stand beside the others.
    public func encode(to encoder: any Encoder) throws {
        try conditions.encode(to: encoder)
        var c = encoder.container(keyedBy: CodingKeys.self)
        try c.encode(maxDepth, forKey: .maxDepth)
        try c.encode(adaptive, forKey: .adaptive)
        try c.encode(fixed, forKey: .fixed)
        try c.encode(sweep, forKey: .sweep)
        try c.encodeIfPresent(answerDepthCorrelation, forKey: .answerDepthCorrelation)
        try c.encodeIfPresent(questionDepthCorrelation, forKey: .questionDepthCorrelation)
        try c.encodeIfPresent(fixedAccuracyAtMeanDepth, forKey: .fixedAccuracyAtMeanDepth)
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
