import Analysis
import Foundation

/// An evaluation as tables for a terminal.
struct EvaluationText {
    private let found: Evaluation

    init(_ found: Evaluation) { self.found = found }

    var text: String {
        [heading, difficulties, fixed, sweep, summary].compactMap { $0 }.joined(separator: "\n\n")
    }

    private var heading: String {
        let c = found.conditions
        let distinct = c.distinctRows < c.rows ? " (\(c.distinctRows) distinct)" : ""
        let task = c.task + list(c.options, " of ")
        let kv = c.kv.map { ", keys and values \($0)" } ?? ""
        let rows = "\(c.rows) rows\(distinct) of the \(c.split) split"
        return """
            \(task), model \(c.model): \(rows), seed \(c.seed), K = \(found.maxDepth)
            depth policy \(c.policy), weights \(c.fingerprint)\(kv)
            """ + list(c.trainedOptions ?? [:], "\nnot what it was trained on: \(c.task) of ")
    }

    /// Nothing when there are none.
    private func list(_ options: [String: Int], _ words: String) -> String {
        guard !options.isEmpty else { return "" }
        return words + options.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }

    private var difficulties: String {
        let unit =
            ["mano": "operators", "brevo": "nodes", "depo": "hops", "lano": "length"][found.conditions.task] ?? "size"
        return table(
            [[unit, "answers", "accuracy", "answer depth", "question depth", "mean depth", "guess", "majority"]]
                + found.adaptive.byDifficulty.map { cells($0, label: String($0.difficulty ?? 0)) }
                + [cells(found.adaptive.total, label: "all")])
    }

    private func cells(_ line: Evaluation.Line, label: String) -> [String] {
        [
            label, String(line.answers), share(line.accuracy), depth(line.answerDepth), depth(line.questionDepth),
            depth(line.meanDepth), share(line.guessBaseline), share(line.majorityBaseline),
        ]
    }

    private var fixed: String? {
        guard !found.fixed.isEmpty else { return nil }
        return "every token at a fixed depth\n" + points(found.fixed, setting: "k") { String(Int($0)) }
    }

    private var sweep: String? {
        guard !found.sweep.isEmpty else { return nil }
        return "leaving at a threshold of the exit distribution\n"
            + points(found.sweep, setting: "q") { String(format: "%.2f", $0) }
    }

    private func points(_ points: [Evaluation.Point], setting: String, _ format: (Double) -> String) -> String {
        let difficulties = found.adaptive.byDifficulty.map { String($0.difficulty ?? 0) }
        return table(
            [[setting, "mean depth", "accuracy"] + difficulties]
                + points.map { point in
                    [format(point.setting), depth(point.total.meanDepth), share(point.total.accuracy)]
                        + point.byDifficulty.map { share($0.accuracy) }
                })
    }

    private var summary: String {
        var lines: [String] = []
        if let fixed = found.fixedAccuracyAtMeanDepth {
            lines.append(
                "accuracy \(share(found.adaptive.total.accuracy)) at mean depth \(depth(found.adaptive.total.meanDepth)); "
                    + "fixed depths reach \(share(fixed)) at that cost")
        }
        let correlations = [
            ("with the depth at the answer", found.answerDepthCorrelation),
            ("with the question's depth   ", found.questionDepthCorrelation),
        ]
        for (what, rho) in correlations {
            let value = rho.map { String(format: "%+.2f", $0) } ?? "undefined (difficulty or depth does not vary)"
            lines.append("rank correlation of difficulty \(what)  \(value)")
        }
        return lines.joined(separator: "\n")
    }

    /// Columns as wide as their widest cell, right-aligned.
    private func table(_ rows: [[String]]) -> String {
        let widths = (rows.first ?? []).indices.map { column in rows.reduce(0) { max($0, $1[column].count) } }
        return rows.map { row in
            zip(row, widths).map { String(repeating: " ", count: $1 - $0.count) + $0 }.joined(separator: "  ")
        }.joined(separator: "\n")
    }

    private func share(_ value: Double?) -> String { value.map { String(format: "%.3f", $0) } ?? "" }

    /// 0 is that of no token.
    private func depth(_ value: Double) -> String { value == 0 ? "–" : String(format: "%.2f", value) }
}
