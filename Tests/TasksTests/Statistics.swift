import Foundation

@testable import Tasks

/// Mean of some numbers and how sure it is.
struct Sample {
    let mean: Double
    let standardError: Double
    let count: Int

    init(_ values: [Double]) {
        self.count = values.count
        let count = Double(values.count)
        let mean = values.reduce(0, +) / count
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / (count - 1)
        self.mean = mean
        standardError = (variance / count).squareRoot()
    }

    init(_ values: [Int]) { self.init(values.map(Double.init)) }

    /// Within 3 standard errors of the value; `rounding` is half the last digit of a value given as text, `others` the
    /// number of draws behind a value that is itself a mean.
    func isNear(_ value: Double, rounding: Double = 0, others: Int = .max) -> Bool {
        let error = standardError * (1 + Double(count) / Double(others)).squareRoot()
        return abs(mean - value) <= 3 * error + rounding
    }
}

/// Whether counts follow the probabilities: Pearson's statistic is below its mean plus 4 standard deviations. Seeds are
/// fixed, so a test passes always or never.
func chiSquareIsPlausible(_ counts: [Int], expected: [Double]) -> Bool {
    let total = Double(counts.reduce(0, +))
    let statistic = zip(counts, expected).reduce(0) { sum, pair in
        let expected = pair.1 * total
        return sum + (Double(pair.0) - expected) * (Double(pair.0) - expected) / expected
    }
    let freedom = Double(counts.count - 1)
    return statistic <= freedom + 4 * (2 * freedom).squareRoot()
}

/// Instances straight from a task, all of them independent of a split.
func instances(_ task: any SequenceTask, size: Int = 0, count: Int, seed: UInt64 = 1) -> [Row] {
    (0..<count).map { index in
        var rng = CounterRNG(seed: seed, stream: UInt32(size), index: UInt64(index))
        return task.makeRow(size: size, using: &rng)
    }
}
