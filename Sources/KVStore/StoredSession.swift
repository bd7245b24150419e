import Foundation

/// Who a session belongs to, as its record shows.
public struct SessionInfo: Sendable, Equatable {
    /// Empty: an unnamed session, collected some time after its request has ended.
    public var name: String
    /// Client id of the request that wrote last.
    public var request: String
    /// The Router's number of that request; 0: unknown.
    public var number: UInt64

    public init(name: String, request: String, number: UInt64 = 0) {
        self.name = name
        self.request = request
        self.number = number
    }
}

/// One record of the `sessions` database.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 1 | version, 2 |
/// | 1 | 1 | length of the name |
/// | 2 | 1 | length of the request id |
/// | 3 | 1 | 0 |
/// | 4 | 4 | positions, little-endian |
/// | 8 | 8 | created, Unix milliseconds, little-endian |
/// | 16 | 8 | updated, Unix milliseconds |
/// | 24 | 8 | bytes of its records' values |
/// | 32 | 8 | the Router's number of the request; version 1 has none |
/// | 40 | … | name, request id, UTF-8 |
public struct StoredSession: Sendable, Equatable {
    public var info: SessionInfo
    public var length: Int
    public var created: UInt64
    public var updated: UInt64
    public var bytes: Int

    static let headerBytes = 40
    /// More than a map holds: a record that says more is damaged.
    static let mostBytes = 1 << 56

    /// The record, valid during `body`.
    func encoded<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        let (name, request) = (info.name.utf8.prefix(255), info.request.utf8.prefix(255))
        let count = Self.headerBytes + name.count + request.count
        return try withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { out in
            (out[0], out[1], out[2], out[3]) = (2, UInt8(name.count), UInt8(request.count), 0)
            out.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 4, as: UInt32.self)
            out.storeBytes(of: created.littleEndian, toByteOffset: 8, as: UInt64.self)
            out.storeBytes(of: updated.littleEndian, toByteOffset: 16, as: UInt64.self)
            out.storeBytes(of: UInt64(bytes).littleEndian, toByteOffset: 24, as: UInt64.self)
            out.storeBytes(of: info.number.littleEndian, toByteOffset: 32, as: UInt64.self)
            let split = Self.headerBytes + name.count
            UnsafeMutableRawBufferPointer(rebasing: out[Self.headerBytes..<split]).copyBytes(from: name)
            UnsafeMutableRawBufferPointer(rebasing: out[split...]).copyBytes(from: request)
            return try body(UnsafeRawBufferPointer(out))
        }
    }

    /// nil when the bytes are no session record of a known version. info: taken instead of the record's.
    init?(_ raw: UnsafeRawBufferPointer, info known: SessionInfo? = nil) {
        guard raw.count >= 32, raw[0] == 1 || raw[0] == 2 else { return nil }
        let header = raw[0] == 1 ? 32 : Self.headerBytes
        guard raw.count == header + Int(raw[1]) + Int(raw[2]) else { return nil }
        func number(_ offset: Int) -> UInt64 {
            UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        length = Int(UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
        (created, updated, bytes) = (number(8), number(16), min(Int(clamping: number(24)), Self.mostBytes))
        let split = header + Int(raw[1])
        info =
            known
            ?? SessionInfo(
                name: String(decoding: raw[header..<split], as: UTF8.self),
                request: String(decoding: raw[split...], as: UTF8.self), number: header == 32 ? 0 : number(32))
    }

    init(info: SessionInfo, length: Int, created: UInt64, updated: UInt64, bytes: Int) {
        self.info = info
        self.length = length
        self.created = created
        self.updated = updated
        self.bytes = bytes
    }
}
