/// The benchmark's law of training sizes: P(n) proportional to 1/(n + √N), n = 3…N. Small graphs are frequent enough to
/// be learnt first, large ones are not rare.
struct SkewedSizes: Sendable {
    static let smallest = 3
    /// Sum of the weights of sizes 3…n, at place n - 3.
    private let cumulative: [Double]

    init(largest: Int) {
        let root = Double(largest).squareRoot()
        var sum = 0.0
        cumulative = (Self.smallest...largest).map { size in
            sum += 1 / (Double(size) + root)
            return sum
        }
    }

    var range: ClosedRange<Int> { Self.smallest...(Self.smallest + cumulative.count - 1) }

    /// P(n).
    func probability(of size: Int) -> Double {
        let place = size - Self.smallest
        return (cumulative[place] - (place > 0 ? cumulative[place - 1] : 0)) / cumulative[cumulative.count - 1]
    }

    func draw(using rng: inout CounterRNG) -> Int {
        let target = rng.uniform() * cumulative[cumulative.count - 1]
        let place = cumulative.firstIndex { target < $0 } ?? cumulative.count - 1
        return Self.smallest + place
    }
}

/// Words for nodes 1…N: `n01`, `n02`, …, zero-padded to equal width (two digits at least), so that the order of words
/// is the order of numbers.
func nodeWords(_ count: Int) -> [String] {
    let width = max(2, String(count).count)
    return (1...count).map { number in
        let digits = String(number)
        return "n" + String(repeating: "0", count: width - digits.count) + digits
    }
}
