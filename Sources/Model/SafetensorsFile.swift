import Foundation

/// One memory-mapped safetensors file: `[u64 header length][JSON header][raw tensors]`, little-endian.
/// Everything the header claims is checked against the file before a byte of a tensor is read.
public final class SafetensorsFile: @unchecked Sendable {  // immutable after init; the mapping is read-only
    struct Entry {
        let type: ElementType
        let shape: [Int]
        let bytes: Range<Int>
    }

    enum ElementType: String {
        case f32 = "F32"
        case f16 = "F16"
        case bf16 = "BF16"
        case i32 = "I32"
        case i64 = "I64"

        var size: Int {
            switch self {
            case .f16, .bf16: 2
            case .f32, .i32: 4
            case .i64: 8
            }
        }

        var isFloat: Bool { self != .i32 && self != .i64 }
    }

    let path: String
    private(set) var entries: [String: Entry] = [:]
    /// Strings that the writer attached to the file.
    public private(set) var metadata: [String: String] = [:]
    private let mapping: UnsafeRawBufferPointer

    /// Maps and checks the file; no tensor is read.
    public init(path: String) throws {
        self.path = path
        let descriptor = open(path, O_RDONLY)
        guard descriptor >= 0 else {
            throw ModelError(.unreadable, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw ModelError(.unreadable, "cannot read \(path): it is not a file")
        }
        guard status.st_size >= 8 else {
            throw ModelError(.damaged, "\(path) is damaged: too short to be a safetensors file")
        }
        let size = Int(status.st_size)
        guard let base = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), base != MAP_FAILED else {
            throw ModelError(.unreadable, "cannot map \(path): \(String(cString: strerror(errno)))")
        }
        mapping = UnsafeRawBufferPointer(start: base, count: size)
        try readHeader()
    }

    deinit { munmap(UnsafeMutableRawPointer(mutating: mapping.baseAddress), mapping.count) }

    /// The whole file, for checksums.
    var bytes: UnsafeRawBufferPointer { mapping }

    private func readHeader() throws {
        let length = UInt64(littleEndian: mapping.loadUnaligned(as: UInt64.self))
        guard length <= UInt64(mapping.count - 8), length <= 100 << 20 else {
            throw ModelError(
                .damaged, "\(path) is damaged: header of \(length) bytes in a file of \(mapping.count) bytes")
        }
        let start = 8 + Int(length)
        let notJSON = ModelError(.damaged, "\(path) is damaged: its header is not a JSON object")
        let parsed: Any
        do {
            parsed = try JSONSerialization.jsonObject(with: Data(mapping[8..<start]))
        } catch {
            throw notJSON
        }
        guard let header = parsed as? [String: Any] else { throw notJSON }
        metadata = header["__metadata__"] as? [String: String] ?? [:]
        for (name, value) in header where name != "__metadata__" {
            entries[name] = try entry(name, value, dataStart: start)
        }
    }

    private func entry(_ name: String, _ value: Any, dataStart: Int) throws -> Entry {
        guard let fields = value as? [String: Any], let typeName = fields["dtype"] as? String,
            let shape = fields["shape"] as? [Int], let offsets = fields["data_offsets"] as? [Int],
            offsets.count == 2, shape.allSatisfy({ $0 >= 0 && $0 <= 1 << 32 })
        else { throw ModelError(.damaged, "\(path) is damaged: tensor '\(name)' has no valid header entry") }
        guard let type = ElementType(rawValue: typeName) else {
            throw ModelError(
                .unsupported,
                "\(path): tensor '\(name)' has dtype \(typeName); supported are F32, F16, BF16, I32 and I64")
        }
        var wanted = type.size
        for extent in shape {
            let (product, overflow) = wanted.multipliedReportingOverflow(by: extent)
            guard !overflow else { throw ModelError(.damaged, "\(path) is damaged: tensor '\(name)' is too large") }
            wanted = product
        }
        let available = mapping.count - dataStart
        guard offsets[0] >= 0, offsets[1] >= offsets[0], offsets[1] <= available, offsets[1] - offsets[0] == wanted
        else {
            throw ModelError(
                .damaged,
                "\(path) is damaged: tensor '\(name)' \(shape) needs \(wanted) bytes at \(offsets), "
                    + "the file has \(available)")
        }
        return Entry(type: type, shape: shape, bytes: (dataStart + offsets[0])..<(dataStart + offsets[1]))
    }

    /// Of all tensors, in any order.
    public var names: some Collection<String> { entries.keys }

    /// Shape of a tensor; nil when the file has none of that name.
    public func shape(of name: String) -> [Int]? { entries[name]?.shape }

    private func entry(_ name: String, shape: [Int], float: Bool) throws -> Entry {
        guard let entry = entries[name] else {
            throw ModelError(.damaged, "\(path): tensor '\(name)' \(shape) is missing")
        }
        guard entry.shape == shape else {
            throw ModelError(
                .damaged, "\(path): tensor '\(name)' has shape \(entry.shape), expected \(shape) from config.json")
        }
        guard entry.type.isFloat == float else {
            throw ModelError(
                .damaged,
                "\(path): tensor '\(name)' has dtype \(entry.type.rawValue), expected \(float ? "F32" : "I32")")
        }
        return entry
    }

    /// The tensor's values as integers. Errors as for `floats`.
    public func integers(_ name: String, shape: [Int]) throws -> [Int] {
        let entry = try entry(name, shape: shape, float: false)
        return stride(from: entry.bytes.lowerBound, to: entry.bytes.upperBound, by: entry.type.size).map { offset in
            entry.type == .i32
                ? Int(mapping.loadUnaligned(fromByteOffset: offset, as: Int32.self))
                : Int(mapping.loadUnaligned(fromByteOffset: offset, as: Int64.self))
        }
    }

    /// The tensor's values as float32, whether it holds floats or integers: a mask. Errors as for `floats`.
    public func numbers(_ name: String, shape: [Int]) throws -> [Float] {
        if let found = entries[name], !found.type.isFloat { return try integers(name, shape: shape).map(Float.init) }
        return try floats(name, shape: shape)
    }

    /// The tensor's values as float32. Errors name the tensor, the expected and the found shape.
    public func floats(_ name: String, shape: [Int]) throws -> [Float] {
        let entry = try entry(name, shape: shape, float: true)
        let values = convert(entry)
        guard values.allSatisfy(\.isFinite) else {
            throw ModelError(.damaged, "\(path): tensor '\(name)' \(shape) holds a value that is not finite")
        }
        return values
    }

    private func convert(_ entry: Entry) -> [Float] {
        let count = entry.bytes.count / entry.type.size
        let raw = UnsafeRawBufferPointer(rebasing: mapping[entry.bytes])
        return [Float](unsafeUninitializedCapacity: count) { out, initialized in
            switch entry.type {
            case .i32, .i64:
                preconditionFailure("entry(_:shape:float:) lets no integers through")
            case .f32:
                UnsafeMutableRawBufferPointer(out).copyMemory(from: raw)
            case .f16:
                for i in 0..<count {
                    out[i] = Float(Float16(bitPattern: raw.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
                }
            case .bf16:
                for i in 0..<count {
                    let bits = raw.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)
                    out[i] = Float(bitPattern: UInt32(bits) << 16)
                }
            }
            initialized = count
        }
    }
}
