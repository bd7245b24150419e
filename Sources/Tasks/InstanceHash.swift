/// A 64-bit hash of a question, the same on every machine and in every run (the standard library's is not).
public struct InstanceHash: Sendable {
    /// The hash of all that was combined so far.
    public private(set) var value: UInt64 = 0x616E_6972_6100_0001

    public init() {}

    /// Takes one more number of the question's canonical form.
    public mutating func combine(_ number: Int) {
        value = Self.mixed(value &+ 0x9E37_79B9_7F4A_7C15 &* (UInt64(truncatingIfNeeded: number) &+ 1))
    }

    /// The hash of a question that is one list of numbers.
    public static func of(_ numbers: some Sequence<Int>) -> UInt64 {
        var hash = InstanceHash()
        for number in numbers { hash.combine(number) }
        return hash.value
    }

    /// SplitMix64's finaliser: a bijection that spreads every bit over all bits, the low three included.
    private static func mixed(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
