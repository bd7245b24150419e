import Foundation

/// Writes a safetensors file whole or not at all: beside its place, to the disk, then renamed.
public enum SafetensorsWriter {
    public struct Tensor {
        public let name: String
        public let shape: [Int]
        public let values: UnsafeBufferPointer<Float>

        /// values must outlive the call of `write`; their count is the product of the shape.
        public init(_ name: String, shape: [Int], values: UnsafeBufferPointer<Float>) {
            precondition(values.count == shape.reduce(1, *))
            (self.name, self.shape, self.values) = (name, shape, values)
        }
    }

    /// Tensors as F32, in the order given. Throws `ModelError` with the system's reason, such as a full disk; what was
    /// at `path` is then untouched.
    public static func write(_ tensors: [Tensor], metadata: [String: String] = [:], to path: String) throws {
        var header: [String: Any] = ["__metadata__": metadata]
        var offset = 0
        for tensor in tensors {
            let bytes = tensor.values.count * 4
            header[tensor.name] = ["dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + bytes]]
            offset += bytes
        }
        var json = try JSONSerialization.data(withJSONObject: header, options: [.sortedKeys])
        json.append(contentsOf: [UInt8](repeating: 0x20, count: (8 - json.count % 8) % 8))
        let length = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) }
        try AtomicFile.write(to: path) { file in
            try file.write(length)
            try file.write(json)
            for tensor in tensors { try file.write(UnsafeRawBufferPointer(tensor.values)) }
        }
    }
}

/// Writes all bytes; false: errno says why not. A full disk takes a part first and says so the next time.
public func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Bool {
    var done = 0
    while done < bytes.count {
        let count = write(descriptor, bytes.baseAddress! + done, bytes.count - done)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return false }
        done += count
    }
    return true
}

/// A file that replaces another only when it is complete and on disk.
public struct AtomicFile: ~Copyable {
    private let descriptor: Int32
    private let path: String

    /// Runs body on a new file beside `path`, which takes its place afterwards. On any error the new file is removed.
    public static func write(to path: String, _ body: (borrowing AtomicFile) throws -> Void) throws {
        let temporary = path + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("create", temporary) }
        do {
            let file = AtomicFile(descriptor: descriptor, path: temporary)
            try body(file)
            guard fsync(descriptor) == 0 else { throw failure("write", temporary) }
            guard rename(temporary, path) == 0 else { throw failure("replace", path) }
        } catch {
            close(descriptor)
            unlink(temporary)
            throw error
        }
        close(descriptor)
    }

    /// The same for data that is at hand.
    public static func write(_ data: Data, to path: String) throws { try write(to: path) { try $0.write(data) } }

    public func write(_ data: Data) throws { try data.withUnsafeBytes { try write($0) } }

    public func write(_ bytes: UnsafeRawBufferPointer) throws {
        guard writeAll(bytes, to: descriptor) else { throw Self.failure("write", path) }
    }

    private static func failure(_ what: String, _ path: String) -> ModelError {
        ModelError(.unreadable, "cannot \(what) \(path): \(String(cString: strerror(errno)))")
    }
}
