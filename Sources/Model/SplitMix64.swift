/// SplitMix64: the same numbers from the same seed on every machine.
public struct SplitMix64: RandomNumberGenerator {
    private static let step: UInt64 = 0x9E37_79B9_7F4A_7C15
    private var state: UInt64

    /// drawn: how many numbers of the seed's sequence are passed over.
    public init(state: UInt64, drawn: Int = 0) { self.state = state &+ Self.step &* UInt64(truncatingIfNeeded: drawn) }

    public mutating func next() -> UInt64 {
        state &+= Self.step
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
