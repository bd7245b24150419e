import Foundation
import Kernels

/// Values with a checksum: four bytes in front, little-endian, crc32c of the key and of the value: one under
/// another key does not fit.
public enum Sealed {
    public static func seal(_ value: Data, key: [UInt8]) -> [UInt8] {
        withUnsafeBytes(of: sum(value, key).littleEndian) { Array($0) } + value
    }

    /// The value; nil when it is not what was sealed under this key.
    public static func open(_ bytes: UnsafeRawBufferPointer, key: [UInt8]) -> Data? {
        guard bytes.count >= 4 else { return nil }
        let value = Data(bytes[4...])
        return UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == sum(value, key) ? value : nil
    }

    private static func sum(_ value: Data, _ key: [UInt8]) -> UInt32 {
        let keySum = key.withUnsafeBytes { anira_crc32c(0, $0.baseAddress, $0.count) }
        return value.withUnsafeBytes { anira_crc32c(keySum, $0.baseAddress, $0.count) }
    }
}
