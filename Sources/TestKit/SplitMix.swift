import Model

public typealias SplitMix = SplitMix64

extension SplitMix64 {
    /// 0..<bound.
    public mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
