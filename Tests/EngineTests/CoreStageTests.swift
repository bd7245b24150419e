import Foundation
import KVStore
import Messaging
import Model
import Proto
import RecurrentCoreService
import TestKit
import Testing
import Worker

/// The core fed by hand: where memory is short, and when there is more than fits its matrix.
@Suite("The core when memory is short or the matrix full")
struct CoreStageTests {
    private final class Seen: @unchecked Sendable {  // the stage posts from the test's own thread
        var outcomes: [Anira_Worker_V1_ResultItem] = []
    }

    private let seen = Seen()
    private let model: ModelConfiguration
    private let stage: CoreStage

    /// rows: of the arena. A position needs K while it is computed.
    init(rows: Int) throws {
        let checkpoint = try Golden("early-1x").checkpoint
        model = checkpoint.configuration
        let shape = CacheShape(layers: 1, width: model.keyValueSize, maxEntries: model.maxEntries)
        let store = try KVStore(
            KVStoreConfiguration(
                directory: nil, stage: "core", shape: shape, fingerprint: "", residentBytes: rows * shape.rowFloats * 4)
        )
        let seen = seen
        stage = CoreStage(
            try RecurrentCore(checkpoint), store: store, limits: RowLimits(decoding: 4, prompts: 6),
            post: { seen.outcomes.append($0.item) }, handOver: { _, _ in false })
    }

    init() throws { try self.init(rows: 1024) }

    private func admit(_ session: UInt64, _ positions: Range<Int>, depth: Int) {
        let item = Anira_Worker_V1_WorkItem.with {
            ($0.request, $0.session) = (session, session)
            ($0.position, $0.count) = (UInt32(positions.lowerBound), UInt32(positions.count))
            $0.core.depths = Data(repeating: UInt8(depth), count: positions.count)
            ($0.core.depth.minimum, $0.core.depth.maximum) = (1, UInt32(model.maxDepth))
        }
        let floats = [Float](repeating: 0.1, count: positions.count * model.hiddenSize)
        stage.admit(Work(item, tensor: floats.withUnsafeBufferPointer { Tensor(floats: $0) }))
    }

    /// Sessions (in these tests a request is one) and positions of the answers, once nothing moves any more.
    private func answers() -> [String] {
        var steps = 0
        while stage.pending > 0, stage.step(), steps < 1000 { steps += 1 }
        #expect(stage.pending == 0)
        return seen.outcomes.map { item in
            let ending = if case .core = item.outcome { "" } else { " refused" }
            return "\(item.request) at \(item.position)\(ending)"
        }
    }

    @Test("A row that waits for memory does not stop the chunk that holds it")
    func rowBehindChunk() throws {
        // Eight positions of one session, and less than one more of another.
        let test = try CoreStageTests(rows: 8 * model.maxEntries + 3)
        test.admit(2, 0..<1, depth: 1)
        #expect(test.answers() == ["2 at 0"])
        test.admit(1, 0..<4, depth: 5)
        test.admit(1, 4..<8, depth: 5)
        #expect(test.stage.step())
        test.admit(2, 1..<2, depth: 1)
        #expect(test.answers() == ["2 at 0", "1 at 0", "1 at 4", "2 at 1"])
    }

    @Test("A chunk that can never fit is answered while others decode")
    func chunkThatNeverFits() throws {
        let test = try CoreStageTests(rows: 8 * model.maxEntries)
        test.admit(1, 0..<9, depth: 1)
        test.admit(3, 0..<2, depth: 1)
        // A row is always in the matrix when the next one comes.
        for position in 0..<4 { test.admit(2 + UInt64(10 * position), 0..<1, depth: 2) }
        for turn in 0..<8 {
            test.admit(100 + UInt64(turn), 0..<1, depth: 2)
            _ = test.stage.step()
        }
        #expect(test.seen.outcomes.contains { $0.request == 1 })
        let answers = test.answers()
        #expect(answers.contains("1 at 0 refused"))
        #expect(answers.contains("3 at 0"))
        #expect(answers.count == 14)
    }

    @Test(
        "Finished rows go on as many together as fill the next matrix, or more than still run",
        arguments: [
            ([1, 1, 3, 3, 3, 3, 3, 3], [0, 0, 4, 4, 4, 8]), ([1, 2, 4], [0, 2, 2, 3]), ([1, 3], [0, 0, 2]),
        ])
    func leavingTogether(_ depths: [Int], _ answered: [Int]) {
        // Four rows fit.
        for (session, depth) in zip(1..., depths) { admit(UInt64(session), 0..<1, depth: depth) }
        for count in answered {
            #expect(stage.step())
            #expect(seen.outcomes.count == count)
        }
        #expect(seen.outcomes.map(\.request) == Array(1...UInt64(depths.count)))
        #expect(stage.pending == 0)
    }

    @Test("A finished chunk fills the next matrix alone: it takes along what waits")
    func chunkLeaves() {
        for (session, depth) in zip(1...6, [1, 3, 3, 3, 3, 3]) { admit(UInt64(session), 0..<1, depth: depth) }
        #expect(stage.step())
        #expect(seen.outcomes.isEmpty)
        admit(10, 0..<5, depth: 1)
        #expect(stage.step())
        #expect(seen.outcomes.map(\.request) == [1, 10])
    }

    @Test("A row that is cancelled while it waits for others is not answered, and the others are")
    func cancelledWhileHeld() {
        for (session, depth) in zip(1...6, [1, 1, 3, 3, 3, 3]) { admit(UInt64(session), 0..<1, depth: depth) }
        #expect(stage.step())
        #expect(seen.outcomes.isEmpty)
        stage.cancel(request: 1, through: 0)
        stage.release(session: 5, drop: false)
        #expect(Set(answers()) == ["2 at 0", "3 at 0", "4 at 0", "5 at 0", "6 at 0"])
    }

    @Test("Finished rows do not wait for others that wait for their memory")
    func heldMemory() throws {
        // Three positions fit.
        let test = try CoreStageTests(rows: 3 * model.maxEntries)
        for session in 1...8 { test.admit(UInt64(session), 0..<1, depth: 1) }
        #expect(test.answers().count == 8)
    }
}
