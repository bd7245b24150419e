import Messaging
import Proto
import Testing

@Suite struct TensorTests {
    /// Work for the core: items of so many rows, `width` bytes each, item i filled with byte i.
    private func work(_ counts: [Int], width: Int = 8) -> [Work] {
        counts.enumerated().map { index, count in
            let item = Anira_Worker_V1_WorkItem.with {
                ($0.request, $0.count) = (UInt64(index), UInt32(count))
                $0.core = .init()
            }
            return Work(item, tensor: tensor(index, bytes: count * width))
        }
    }

    private func tensor(_ value: Int, bytes: Int) -> Tensor {
        Tensor(Frame([UInt8](repeating: UInt8(value), count: bytes)))
    }

    private func read(_ frames: [Frame]) throws -> [Work] {
        try readWork(Anira_Worker_V1_WorkBatch(serializedBytes: frames[2].bytes), frames.dropFirst(3), taken: 5)
    }

    @Test(arguments: [[1], [1, 1, 1], [3, 1, 64], [9000, 9000, 1, 1, 9000], [1, 20_000, 1]])
    func `rows come back as they went, small ones in common frames`(counts: [Int]) throws {
        let sent = work(counts)
        let frames = try workFrames(sent)
        let received = try read(frames)
        #expect(received.map(\.item) == sent.map(\.item))
        #expect(received.map { $0.tensor?.bytes } == sent.map { $0.tensor?.bytes })
        #expect(received.allSatisfy { $0.taken == 5 })
        let tensors = frames.dropFirst(3)
        #expect(tensors.allSatisfy { $0.count <= 64 << 10 || counts.contains($0.count / 8) })
        #expect(tensors.count == (counts.reduce(0, +) * 8 <= 64 << 10 ? 1 : counts.count == 5 ? 4 : 3))
        // What was received goes on as well as what was made here.
        #expect(try read(workFrames(received)).map { $0.tensor?.bytes } == sent.map { $0.tensor?.bytes })
    }

    @Test func `a frame for each item is understood too`() throws {
        let sent = work([2, 1, 3])
        let header = try workFrames(sent).prefix(3)
        let frames = header + [(0, 16), (1, 8), (2, 24)].map { Frame([UInt8](repeating: $0.0, count: $0.1)) }
        #expect(try read(Array(frames)).map { $0.tensor?.bytes } == sent.map { $0.tensor?.bytes })
    }

    @Test(arguments: [[], [40], [48, 0, 1], [20, 28], [48, 48, 1]])
    func `frames that do not fit the items are refused`(sizes: [Int]) throws {
        let header = try workFrames(work([2, 1, 3])).prefix(3)
        #expect(throws: TensorMismatch.self) {
            try read(header + sizes.map { Frame([UInt8](repeating: 0, count: $0)) })
        }
    }

    @Test func `items without rows take none`() throws {
        let decider = Anira_Worker_V1_WorkItem.with {
            $0.count = 4
            $0.decider = .init()
        }
        let frames = try workFrames([Work(decider, tensor: nil)] + work([2]))
        #expect(frames.count == 4)
        #expect(try read(frames).map { $0.tensor?.count } == [nil, 16])
        #expect(throws: TensorMismatch.self) {
            try read(workFrames([Work(decider, tensor: nil)]) + [Frame([1])])
        }
    }

    @Test func `results keep theirs, failures have none`() throws {
        func outcome(_ change: (inout Anira_Worker_V1_ResultItem) -> Void) -> Anira_Worker_V1_ResultItem {
            .with {
                $0.count = 2
                change(&$0)
            }
        }
        let sent = [
            Outcome(outcome { $0.coda.logits = true }, tensor: tensor(1, bytes: 12)),
            Outcome(outcome { $0.coda = .init() }),
            Outcome(outcome { $0.failure.code = "INTERNAL" }), Outcome(outcome { $0.needContext.from = 1 }),
            Outcome(outcome { $0.coda.logits = true }, tensor: tensor(2, bytes: 12)),
        ]
        let frames = try resultFrames(sent)
        let received = try readOutcomes(frames[2].bytes, frames.dropFirst(3))
        #expect(received.map(\.item) == sent.map(\.item))
        #expect(received.map { $0.tensor?.bytes } == sent.map { $0.tensor?.bytes })
    }
}
