/// Rank correlation of paired values, −1…1, ties sharing their mean rank (Spearman). Nil when one side is constant.
public func spearman(_ pairs: [(Double, Double)]) -> Double? {
    let x = ranks(pairs.map(\.0)), y = ranks(pairs.map(\.1))
    guard !x.isEmpty else { return nil }
    let mean = Double(x.count + 1) / 2
    var (xy, xx, yy) = (0.0, 0.0, 0.0)
    for (a, b) in zip(x, y) {
        xy += (a - mean) * (b - mean)
        xx += (a - mean) * (a - mean)
        yy += (b - mean) * (b - mean)
    }
    return xx > 0 && yy > 0 ? xy / (xx * yy).squareRoot() : nil
}

/// Ranks 1…n, equal values sharing the mean of theirs.
private func ranks(_ values: [Double]) -> [Double] {
    let order = values.indices.sorted { values[$0] < values[$1] }
    var ranks = [Double](repeating: 0, count: values.count)
    var start = 0
    while start < order.count {
        var end = start
        while end < order.count, values[order[end]] == values[order[start]] { end += 1 }
        for place in start..<end { ranks[order[place]] = Double(start + end + 1) / 2 }
        start = end
    }
    return ranks
}
