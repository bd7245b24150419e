import KVStore
import Messaging
import Proto
import Testing

@testable import Worker

@Suite("A batch of decider and coda")
struct BatchQueueTests {
    private func item(_ session: UInt64, at position: Int, rows: Int) -> Work {
        Work(
            .with {
                ($0.request, $0.session, $0.position, $0.count) = (
                    session, session, UInt32(position), UInt32(rows)
                )
            }, tensor: nil)
    }

    /// Single rows that wait among chunks were not counted once memory had had no room for a chunk: a batch had more rows than
    /// the stage's matrix.
    @Test("takes no more rows than its limits, also after memory had no room for a chunk")
    func rowsAreCounted() throws {
        let shape = CacheShape(layers: 1, width: 16, maxEntries: 1)
        let store = try KVStore(
            KVStoreConfiguration(
                directory: nil, stage: "prelude", shape: shape, fingerprint: "", residentBytes: 128 * 128))
        let limits = RowLimits(decoding: 32, prompts: 64)
        let admission = Admission(store: store, positions: 128, width: 0) { _ in }
        var queue = BatchQueue(store: store, admission: admission, limits: limits)
        var held: [AdmittedItem] = []
        func leave() {
            for item in held { store.commit(session: item.session, positions: item.range) { _ in } }
            for item in held { store.release(session: item.session) }
            held = []
        }
        queue.append(item(1, at: 0, rows: 127))
        #expect(queue.next() == 127)
        held = queue.items
        for session in UInt64(10)..<50 {
            queue.append(item(session, at: 0, rows: 1))
            queue.append(item(session, at: 1, rows: 2))
        }
        queue.append(item(2, at: 0, rows: 1))
        #expect(queue.next() == 1)  // and no room for any of the others
        held += queue.items
        leave()
        for session in UInt64(100)..<140 { queue.append(item(session, at: 0, rows: 1)) }
        while queue.count > 0 {
            let rows = queue.next()
            try #require(rows > 0)
            #expect(rows <= limits.all)
            held = queue.items
            leave()
        }
    }
}
