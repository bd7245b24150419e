import Foundation
import Kernels

/// Shape of a stage's cache. A row is one entry: per layer, keys [width] then values [width].
public struct CacheShape: Sendable, Equatable {
    public var layers: Int
    /// KV heads × head width.
    public var width: Int
    /// Most entries of a position: K for the core, 1 for prelude and coda.
    public var maxEntries: Int

    public init(layers: Int, width: Int, maxEntries: Int) {
        self.layers = layers
        self.width = width
        self.maxEntries = maxEntries
    }

    /// Floats of one row.
    public var rowFloats: Int { layers * 2 * width }
}

/// How keys and values are held, in memory and in the file alike, so that a session read back is the same to the bit. f16
/// and bf16 halve both; each element is then the nearest that fits.
public enum StoredType: String, Sendable, Codable, CaseIterable {
    case f32, f16, bf16
    /// Bytes of an element.
    public var size: Int { anira_cached_size(kernelType) }
    /// The kernels' name of it.
    public var kernelType: anira_kv_type { anira_kv_type(UInt32(code)) }
    /// A model's fingerprint together with this type: what Router and workers of a suite have to agree on.
    public func fingerprint(of model: String) -> String { self == .f32 ? model : "\(model)-kv-\(rawValue)" }
    var code: UInt8 { UInt8(StoredType.allCases.firstIndex(of: self)!) }
}

/// Keys of the `kv` and `sessions` databases: big-endian, so that hex dumps sort and read.
enum Key {
    /// Bytes of a `kv` key without the end of its record.
    static let recordBytes = 13

    /// session u64
    static func session(_ id: UInt64) -> [UInt8] { withUnsafeBytes(of: id.bigEndian) { Array($0) } }

    /// session u64 · position u32
    static func position(_ session: UInt64, _ position: Int) -> [UInt8] {
        Key.session(session) + withUnsafeBytes(of: UInt32(position).bigEndian) { Array($0) }
    }

    /// session u64 · position u32 · deepest entry u8; the end of the record may follow
    static func record(_ session: UInt64, _ position: Int, deepest: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: recordBytes) { out, count in
            write(session, position, deepest: deepest, to: out.baseAddress!)
            count = recordBytes
        }
    }

    /// The same at `place`.
    static func write(_ session: UInt64, _ position: Int, deepest: Int, to place: UnsafeMutableRawPointer) {
        place.storeBytes(of: session.bigEndian, as: UInt64.self)
        place.storeBytes(of: UInt32(position).bigEndian, toByteOffset: 8, as: UInt32.self)
        place.storeBytes(of: UInt8(deepest), toByteOffset: 12, as: UInt8.self)
    }

    /// The parts of a `kv` key; nil when it is not one.
    static func parse(_ bytes: UnsafeRawBufferPointer) -> (session: UInt64, position: Int, deepest: Int)? {
        guard (recordBytes...(recordBytes + Record.longestEnd)).contains(bytes.count) else { return nil }
        return (
            UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
            Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self))), Int(bytes[12])
        )
    }
}

/// One record of the `kv` database: all entries of one position behind a 16 byte header. It is the key's value, but for a few
/// bytes at its end where those would need another page: they end the key (docs/store.md, "Pages").
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 1 | version, 2 |
/// | 1 | 1 | stored type: 0 f32, 1 f16, 2 bf16 |
/// | 2 | 1 | entries |
/// | 3 | 1 | layers |
/// | 4 | 4 | width, little-endian |
/// | 8 | 4 | crc32c of the key up to the deepest entry (version 1: without), of bytes 0–7 and of the floats, little-endian |
/// | 12 | 4 | 0 |
/// | 16 | … | entries × layers × 2 × width floats, little-endian |
enum Record {
    static let headerBytes = 16
    static let version: UInt8 = 2
    /// Most bytes that a key takes over.
    static let longestEnd = 256

    /// How many bytes at the end of a record of `count` go into its key, on LMDB pages of `page` bytes: those beyond whole
    /// pages, 16 bytes of which are LMDB's own.
    static func end(of count: Int, page: Int) -> Int {
        let full = (count + 16) / page
        guard full > 0 else { return 0 }
        let beyond = count + 16 - full * page
        return beyond <= longestEnd ? beyond : 0
    }

    /// Bytes of a record whose key and value have so many.
    static func bytes(key: Int, value: Int) -> Int { value + max(0, key - Key.recordBytes) }

    /// Bytes of a record of so many entries.
    static func bytes(entries: Int, _ shape: CacheShape, _ type: StoredType) -> Int {
        headerBytes + entries * shape.rowFloats * type.size
    }

    /// Writes a whole record to `raw`, which has room for it. entry: where the entry of an index is.
    fileprivate static func encode(
        _ entries: Int, _ shape: CacheShape, _ type: StoredType, keySum: UInt32, to raw: UnsafeMutableRawBufferPointer,
        entry: (Int) -> UnsafeRawPointer
    ) {
        (raw[0], raw[1], raw[2], raw[3]) = (version, type.code, UInt8(entries), UInt8(shape.layers))
        raw.storeBytes(of: UInt32(shape.width).littleEndian, toByteOffset: 4, as: UInt32.self)
        raw.storeBytes(of: 0, toByteOffset: 12, as: UInt32.self)
        let size = shape.rowFloats * type.size
        for index in 0..<entries {
            (raw.baseAddress! + headerBytes + index * size).copyMemory(from: entry(index), byteCount: size)
        }
        let sum = checksum(keySum, UnsafeRawBufferPointer(raw), end: UnsafeRawBufferPointer(start: nil, count: 0))
        raw.storeBytes(of: sum.littleEndian, toByteOffset: 8, as: UInt32.self)
    }

    private static func checksum(
        _ keySum: UInt32, _ bytes: UnsafeRawBufferPointer, end: UnsafeRawBufferPointer
    ) -> UInt32 {
        let header = anira_crc32c(keySum, bytes.baseAddress, 8)
        let floats = anira_crc32c(header, bytes.baseAddress! + headerBytes, bytes.count - headerBytes)
        return anira_crc32c(floats, end.baseAddress, end.count)
    }

    /// A record whose header, size and checksum were found right.
    struct View {
        let entries: Int
        let type: StoredType
        fileprivate let bytes: UnsafeRawBufferPointer
        fileprivate let end: UnsafeRawBufferPointer

        /// Bytes of the whole record.
        var count: Int { bytes.count + end.count }

        /// Copies entry `index` as it is to `target`.
        func copy(_ index: Int, _ shape: CacheShape, to target: UnsafeMutableRawPointer) {
            let size = shape.rowFloats * type.size
            let start = headerBytes + index * size
            let inValue = max(0, min(size, bytes.count - start))
            target.copyMemory(from: bytes.baseAddress! + min(start, bytes.count), byteCount: inValue)
            guard inValue < size, let rest = end.baseAddress else { return }
            (target + inValue).copyMemory(from: rest + (start + inValue - bytes.count), byteCount: size - inValue)
        }

        /// Entry `index` as float32.
        func floats(_ index: Int, _ shape: CacheShape, to target: UnsafeMutablePointer<Float>) {
            guard type != .f32 else { return copy(index, shape, to: target) }
            withUnsafeTemporaryAllocation(of: UInt16.self, capacity: shape.rowFloats) { bits in
                copy(index, shape, to: bits.baseAddress!)
                for i in 0..<shape.rowFloats {
                    target[i] =
                        type == .f16 ? Float(Float16(bitPattern: bits[i])) : Float(bitPattern: UInt32(bits[i]) << 16)
                }
            }
        }
    }

    /// Checks the value of `key` against the shape and the key's deepest entry; the reason when they do not fit. The record
    /// is valid as long as both.
    static func parse(
        _ bytes: UnsafeRawBufferPointer, of key: UnsafeRawBufferPointer, _ shape: CacheShape, deepest: Int
    ) -> Result<View, RecordDamage> {
        let end = UnsafeRawBufferPointer(rebasing: key.dropFirst(Key.recordBytes))
        guard bytes.count >= headerBytes else { return .failure("\(bytes.count) bytes are no record") }
        guard (1...version).contains(bytes[0]) else {
            return .failure("record version \(bytes[0]), expected \(version)")
        }
        guard Int(bytes[1]) < StoredType.allCases.count else { return .failure("unknown stored type \(bytes[1])") }
        let type = StoredType.allCases[Int(bytes[1])]
        let entries = Int(bytes[2])
        let width = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
        guard entries == deepest + 1, entries <= shape.maxEntries else {
            return .failure("\(entries) entries under a key of deepest entry \(deepest)")
        }
        guard Int(bytes[3]) == shape.layers, width == shape.width,
            bytes.count + end.count == headerBytes + entries * shape.rowFloats * type.size
        else { return .failure("its shape or size does not fit the store's") }
        let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        let keySum = bytes[0] == 1 ? 0 : anira_crc32c(0, key.baseAddress, Key.recordBytes)
        guard stored == checksum(keySum, bytes, end: end) else {
            return .failure("its checksum does not match its key and bytes")
        }
        return .success(View(entries: entries, type: type, bytes: bytes, end: end))
    }
}

/// A record on its way to the store, in one piece of memory: its value and then its key, which the record's end ends.
struct KeyedRecord: Sendable {
    private let memory: [UInt8]
    private let valueBytes: Int

    /// The record of a position. page: bytes of LMDB's pages; entry: where the entry of an index is.
    init(
        _ session: UInt64, _ position: Int, entries: Int, _ shape: CacheShape, _ type: StoredType, page: Int,
        entry: (Int) -> UnsafeRawPointer
    ) {
        let count = Record.bytes(entries: entries, shape, type)
        let end = Record.end(of: count, page: page)
        valueBytes = count - end
        memory = [UInt8](unsafeUninitializedCapacity: count + Key.recordBytes) { out, initialized in
            let raw = UnsafeMutableRawBufferPointer(out)
            let record = UnsafeMutableRawBufferPointer(rebasing: raw[..<count])
            // The key for its checksum first: behind the record, whose end then moves there.
            Key.write(session, position, deepest: entries - 1, to: raw.baseAddress! + count)
            let keySum = anira_crc32c(0, raw.baseAddress! + count, Key.recordBytes)
            Record.encode(entries, shape, type, keySum: keySum, to: record, entry: entry)
            let key = raw.baseAddress! + (count - end)
            memmove(key + Key.recordBytes, key, end)
            Key.write(session, position, deepest: entries - 1, to: key)
            initialized = count + Key.recordBytes
        }
    }

    /// Bytes of the record.
    var count: Int { memory.count - Key.recordBytes }

    /// Key and value, valid during `body`.
    func withBytes<R>(_ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws -> R) rethrows
        -> R
    {
        try memory.withUnsafeBytes {
            try body(
                UnsafeRawBufferPointer(rebasing: $0[valueBytes...]), UnsafeRawBufferPointer(rebasing: $0[..<valueBytes])
            )
        }
    }
}

/// Why a record is not used.
struct RecordDamage: Error, ExpressibleByStringInterpolation, CustomStringConvertible {
    let description: String
    init(stringLiteral value: String) { description = value }
}
