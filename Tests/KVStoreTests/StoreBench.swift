import Foundation
import KVStore
import Synchronization
import Testing

/// A store in a folder of its own, used through its public face only, beside a naive copy of what it should hold.
final class StoreBench {
    struct Setup {
        var shape = CacheShape(layers: 2, width: 3, maxEntries: 5)
        /// Rows of the resident tier.
        var rows = 4096
        var type = StoredType.f32
        var durability = Durability.process
        var mapBytes = 1 << 26
        var keepBytes = Int.max
        var keepAgeMS = UInt64.max
        var stamp: UInt64 = 1
        var fingerprint = "fingerprint-1"
    }

    /// Completions in their order, from whichever thread they come.
    final class Acknowledgements: Sendable {
        private let list = Mutex<[(UInt64, KVStoreError.Code?)]>([])
        func add(_ session: UInt64, _ error: KVStoreError?) { list.withLock { $0.append((session, error?.code)) } }
        var sessions: [UInt64] { list.withLock { $0.map(\.0) } }
        var failures: Int { list.withLock { $0.count { $0.1 != nil } } }
    }

    let folder = NSTemporaryDirectory() + "store-bench-\(UUID().uuidString)"
    var path: String { "\(folder)/kv/core/core-0" }
    var setup: Setup
    var store: KVStore
    let acknowledged = Acknowledgements()
    /// session → position → entry → floats
    var naive: [UInt64: [[[Float]]]] = [:]
    private var counter = 0
    private var isOpen = true
    /// Of the stores before the last `close`.
    private(set) var evictions = 0
    private(set) var reloads = 0

    init(_ change: (inout Setup) -> Void = { _ in }) throws {
        setup = Setup()
        change(&setup)
        store = try KVStore(StoreBench.configuration(setup, "\(folder)/kv/core/core-0"))
    }

    deinit {
        close()
        try? FileManager.default.removeItem(atPath: folder)
    }

    static func configuration(_ setup: Setup, _ path: String) -> KVStoreConfiguration {
        let stride = (setup.shape.rowFloats * setup.type.size + 63) / 64 * 64
        var configuration = KVStoreConfiguration(
            directory: path, stage: "core", shape: setup.shape, fingerprint: setup.fingerprint,
            residentBytes: setup.rows * stride, durability: setup.durability)
        configuration.storedType = setup.type
        configuration.mapBytes = setup.mapBytes
        (configuration.keepBytes, configuration.keepAgeMS) = (setup.keepBytes, setup.keepAgeMS)
        let stamp = setup.stamp
        configuration.clock = { stamp }
        return configuration
    }

    func prepare(_ session: UInt64, _ position: Int, name: String = "") throws -> Residency {
        let info = SessionInfo(name: name, request: "request-\(session)")
        do {
            return try store.prepare(session: session, position: position, persist: true, info: info)
        } catch let error as KVStoreError where error.code == .full && store.isCommitting {
            settle()
            return try store.prepare(session: session, position: position, persist: true, info: info)
        }
    }

    /// Prepares at `position`, adds positions with these numbers of entries and hands them over; the naive copy follows.
    func write(_ session: UInt64, at position: Int, _ entries: [Int], name: String = "", flush: Bool = true) throws {
        #expect(try prepare(session, position, name: name) == .ready)
        try makeRoom(session, entries.count)
        naive[session] = Array((naive[session] ?? []).prefix(position))
        for (offset, count) in entries.enumerated() {
            naive[session]!.append([])
            for _ in 0..<count { add(session, position + offset) }
        }
        commit(session, position..<(position + entries.count))
        if flush { store.flush() }
    }

    /// Sessions whose records wait for their commit are not dropped: a refusal may be over when they have it.
    func makeRoom(_ session: UInt64, _ count: Int) throws {
        if store.extend(session: session, by: count) { return }
        settle()
        try #require(store.extend(session: session, by: count))
    }

    /// One more entry of an open position, of floats never seen before.
    func add(_ session: UInt64, _ position: Int) {
        counter += 1
        let floats = (0..<setup.shape.rowFloats).map { StoreBench.rounded(Float(counter) + Float($0) / 64, setup.type) }
        let row = store.appendEntry(session: session, position: position)
        for (index, float) in floats.enumerated() { store.set(row, index, float) }
        naive[session]![position].append(floats)
    }

    func commit(_ session: UInt64, _ positions: Range<Int>) {
        let acknowledged = acknowledged
        store.commit(session: session, positions: positions) { acknowledged.add(session, $0) }
    }

    /// Representable in the stored type, so that what is read back is what was written.
    static func rounded(_ value: Float, _ type: StoredType) -> Float {
        switch type {
        case .f32: value
        case .f16: Float(Float16(value))
        case .bf16: Float(bitPattern: value.bitPattern & 0xFFFF_0000)
        }
    }

    /// Whether each position shows, to a query at each depth, its deepest entry that is not deeper.
    func equalsNaive(_ session: UInt64) -> Bool {
        let expected = naive[session] ?? []
        guard store.length(session: session) ?? 0 == expected.count else { return false }
        return expected.isEmpty
            || (0..<setup.shape.maxEntries).allSatisfy { deepest in
                let rows = [UInt32](unsafeUninitializedCapacity: expected.count) { rows, count in
                    store.visibleRows(
                        session: session, count: expected.count, deepest: deepest, into: rows.baseAddress!)
                    count = expected.count
                }
                return zip(rows, expected).allSatisfy { row, entries in
                    store.floats(row) == entries[min(deepest, entries.count - 1)]
                }
            }
    }

    func settle() {
        store.flush()
        while store.isCommitting { Thread.sleep(forTimeInterval: 0.0002) }
    }

    func reopen(_ change: (inout Setup) -> Void = { _ in }) throws {
        close()
        change(&setup)
        store = try KVStore(StoreBench.configuration(setup, path))
        isOpen = true
    }

    /// Once: a closed store answers nothing.
    func close() {
        guard isOpen else { return }
        isOpen = false
        evictions += store.statistics().evictions
        reloads += store.statistics().reloads
        store.close()
    }

    /// Closes the store and changes its environment.
    func atRest(_ body: (borrowing Transaction) throws -> Void) throws {
        close()
        let environment = try Environment(
            path: path, access: .owner(.process), names: ["meta", "sessions", "kv"], mapBytes: setup.mapBytes)
        defer { environment.close() }
        try environment.write { try body($0) }
    }

    /// Hex keys of a database, through a stock tool: another process, so that the store may be open.
    func keys(_ database: String) throws -> [String] {
        let lines = try stock("mdb_dump", ["-s", database, path]).split(separator: "\n").filter { $0.hasPrefix(" ") }
        return stride(from: 0, to: lines.count, by: 2).map { String(lines[$0].dropFirst()) }
    }

    func stock(_ name: String, _ arguments: [String]) throws -> String {
        let (process, output) = (Process(), Pipe())
        process.executableURL = URL(fileURLWithPath: "/usr/bin/\(name)")
        process.arguments = arguments
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(name): \(text)")
        return text
    }
}
