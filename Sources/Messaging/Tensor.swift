/// Rows of f32 that belong to one item: a frame, or a part of one that other items share.
public struct Tensor: Sendable {
    private let frame: Frame
    private let offset: Int
    /// Bytes.
    public let count: Int

    private init(_ frame: Frame, offset: Int, count: Int) {
        self.frame = frame
        self.offset = offset
        self.count = count
    }

    /// All of a frame.
    public init(_ frame: Frame) { self.init(frame, offset: 0, count: frame.count) }

    /// float32 values in native (little-endian) order.
    public init(floats: UnsafeBufferPointer<Float>) { self.init(Frame(floats: floats)) }

    /// The bytes, valid during `body`.
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try frame.withBytes { try body(UnsafeRawBufferPointer(rebasing: $0[offset..<(offset + count)])) }
    }

    public var bytes: [UInt8] { withBytes { Array($0) } }

    /// Copies `count` floats starting at float `first` to `target`; the caller has checked the tensor's size.
    public func copyFloats(from first: Int, count: Int, to target: UnsafeMutablePointer<Float>) {
        withBytes { bytes in
            precondition((first + count) * 4 <= bytes.count)
            UnsafeMutableRawPointer(target).copyMemory(from: bytes.baseAddress! + first * 4, byteCount: count * 4)
        }
    }
}

// MARK: - On the wire

extension Tensor {
    /// What small tensors are gathered in: a frame costs libzmq, both ends' threads and the system several microseconds,
    /// whatever its size.
    private static let gatheredBytes = 64 << 10

    /// The frames of a message that holds these tensors: one after another, several to a frame where they are small.
    static func frames(_ tensors: [Tensor]) -> [Frame] {
        var frames: [Frame] = []
        var first = 0
        while first < tensors.count {
            var (end, bytes) = (first + 1, tensors[first].count)
            while end < tensors.count, bytes + tensors[end].count <= gatheredBytes {
                bytes += tensors[end].count
                end += 1
            }
            frames.append(joined(tensors[first..<end]))
            first = end
        }
        return frames
    }

    /// One frame with all of them, one after another. A tensor that is a frame of its own is not copied.
    public static func joined(_ tensors: some Collection<Tensor>) -> Frame {
        let bytes = tensors.reduce(0) { $0 + $1.count }
        if tensors.count == 1, let only = tensors.first, only.frame.count == bytes { return only.frame }
        return Frame(count: bytes) { target in
            var offset = 0
            for tensor in tensors {
                tensor.withBytes { UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: $0) }
                offset += tensor.count
            }
        }
    }

    /// The tensors in the frames of a message. rows: how many each item's has, nil where it has none. All rows of a message are
    /// equally wide; no tensor is cut by the end of a frame.
    static func read(_ frames: ArraySlice<Frame>, rows: [Int?]) throws -> [Tensor?] {
        let (bytes, all) = (frames.reduce(0) { $0 + $1.count }, rows.reduce(0) { $0 + ($1 ?? 0) })
        guard all > 0, bytes % all == 0 else {
            guard frames.isEmpty, rows.allSatisfy({ $0 == nil }) else { throw TensorMismatch() }
            return rows.map { _ in nil }
        }
        let width = bytes / all
        var rest = frames
        var offset = 0
        return try rows.map { count in
            guard let count else { return nil }
            while offset == rest.first?.count { (rest, offset) = (rest.dropFirst(), 0) }
            guard let frame = rest.first, count * width <= frame.count - offset else { throw TensorMismatch() }
            defer { offset += count * width }
            return Tensor(frame, offset: offset, count: count * width)
        }
    }
}
