import Foundation
import Kernels
import Testing

@testable import KVStore

/// A folder that goes with its test.
final class TemporaryFolder: Sendable {
    let path: String

    init() {
        path = NSTemporaryDirectory() + "kv-tests-\(UUID().uuidString)"
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// The tests' cache: 2 layers of width 6, so that a row is 24 floats and the arena pads it to 32.
let testShape = CacheShape(layers: 2, width: 6, maxEntries: 4)
let rowBytes = 32 * 4

/// directory nil: memory only. rows: budget of the resident tier.
func configuration(
    _ directory: String?, rows: Int = 1024, shape: CacheShape = testShape, fingerprint: String = "model-a"
) -> KVStoreConfiguration {
    let stride = (shape.rowFloats + 15) / 16 * 16
    return KVStoreConfiguration(
        directory: directory, stage: "core", shape: shape, fingerprint: fingerprint, residentBytes: rows * stride * 4)
}

/// What an entry's floats are in a test: told apart by session, position, entry and writing.
func value(_ session: UInt64, _ position: Int, _ entry: Int, _ index: Int, writing: Int = 0) -> Float {
    Float(session) * 1.25 + Float(position) * 0.37 + Float(entry) * 17.5 + Float(index) * 0.013 + Float(writing) * 1e4
}

func info(_ name: String = "", request: String = "r") -> SessionInfo { SessionInfo(name: name, request: request) }

/// Errors of completions, in their order, from whichever thread they come.
final class Completions: @unchecked Sendable {  // guarded by `lock`
    private let lock = NSLock()
    private var seen: [(label: Int, error: KVStoreError?)] = []
    var labels: [Int] { lock.withLock { seen.map(\.label) } }
    /// nil: committed.
    var errors: [KVStoreError.Code?] { lock.withLock { seen.map { $0.error?.code } } }
    func note(_ label: Int, _ error: KVStoreError?) { lock.withLock { seen.append((label, error)) } }
}

extension KVStore {
    /// Writes positions with the given numbers of entries at `position`, and hands them to the writer.
    func write(
        _ session: UInt64, at position: Int = 0, _ entries: [Int], name: String = "", writing: Int = 0,
        persist: Bool = true, completion: @escaping @Sendable (KVStoreError?) -> Void = { _ in }
    ) throws {
        let residency = try prepare(session: session, position: position, persist: persist, info: info(name))
        try #require(residency == .ready)
        try #require(extend(session: session, by: entries.count))
        for (offset, count) in entries.enumerated() {
            for entry in 0..<count { fill(session, position + offset, entry, writing: writing) }
        }
        commit(session: session, positions: position..<(position + entries.count), completion: completion)
        flush()
    }

    func fill(_ session: UInt64, _ position: Int, _ entry: Int, writing: Int = 0) {
        let row = appendEntry(session: session, position: position)
        for index in 0..<shape.rowFloats {
            set(row, index, KVStoreTests.value(session, position, entry, index, writing: writing))
        }
    }

    /// Puts a float into an arena row, as the store's type holds it.
    func set(_ row: UInt32, _ index: Int, _ float: Float) {
        var float = float
        anira_store_cached(type.kernelType, &float, 1, arena + Int(row) * stride + index * type.size)
    }

    /// Rows seen by a query at `deepest`.
    func visible(_ session: UInt64, count: Int, deepest: Int) -> [UInt32] {
        [UInt32](unsafeUninitializedCapacity: count) { out, initialized in
            if let base = out.baseAddress {
                visibleRows(session: session, count: count, deepest: deepest, into: base)
            }
            initialized = count
        }
    }

    func floats(_ row: UInt32) -> [Float] {
        let place = arena + Int(row) * stride
        return (0..<shape.rowFloats).map { index in
            switch type {
            case .f32: return place.load(fromByteOffset: 4 * index, as: Float.self)
            case .f16: return Float(place.load(fromByteOffset: 2 * index, as: Float16.self))
            case .bf16:
                return Float(bitPattern: UInt32(place.load(fromByteOffset: 2 * index, as: UInt16.self)) << 16)
            }
        }
    }

    /// Whether each position shows, at every depth, its deepest entry that is not deeper. entries, writings: what was
    /// written.
    func shows(_ session: UInt64, _ entries: [Int], writings: [Int]) -> Bool {
        (0..<shape.maxEntries).allSatisfy { deepest in
            zip(visible(session, count: entries.count, deepest: deepest), entries.indices).allSatisfy { row, position in
                let entry = min(entries[position] - 1, deepest)
                return floats(row)
                    == (0..<shape.rowFloats).map {
                        KVStoreTests.value(session, position, entry, $0, writing: writings[position])
                    }
            }
        }
    }

    func shows(_ session: UInt64, _ entries: [Int]) -> Bool {
        shows(session, entries, writings: [Int](repeating: 0, count: entries.count))
    }

    /// Waits for everything handed over.
    func settle() {
        flush()
        while isCommitting { usleep(200) }
    }

    func resume(_ session: UInt64, at position: Int) throws -> Residency {
        try prepare(session: session, position: position, persist: true, info: info())
    }
}

/// (session, position, deepest entry) of every key, in order.
func storedKeys(_ path: String) throws -> [[Int]] {
    let environment = try Environment(path: path, access: .reader, names: Layout.databases)
    defer { environment.close() }
    var keys: [[Int]] = []
    try environment.read { txn in
        try txn.scan("kv", from: []) { key, _ in
            if let parts = Key.parse(key) { keys.append([Int(parts.session), parts.position, parts.deepest]) }
            return true
        }
    }
    return keys
}

/// Changes an environment that nobody has open.
func edit(_ path: String, _ body: (borrowing Transaction) throws -> Void) throws {
    let environment = try Environment(path: path, access: .owner(.process), names: Layout.databases)
    defer { environment.close() }
    try environment.write(body)
}

/// Runs `body` on a folder that is a file system of its own, of this size; needs root.
func withSmallDisk(_ size: String, _ body: (_ disk: String) throws -> Void) throws {
    let folder = TemporaryFolder()
    _ = try tool("mount", "-t", "tmpfs", "-o", "size=\(size)", "none", folder.path)
    defer { _ = try? tool("umount", "-l", folder.path) }
    try body(folder.path)
}

/// Runs a stock tool; its standard output.
func tool(_ name: String, _ arguments: String...) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/\(name)")
    process.arguments = arguments
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let text = String(decoding: data, as: UTF8.self)
    try #require(process.terminationStatus == 0, "\(name): \(text)")
    return text
}

func hex(_ bytes: [UInt8]) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
