import Foundation
import KVStore
import Logging
import Messaging
import Proto
import Synchronization
import TestKit
import Testing

@testable import Worker

/// A worker over real sockets, with a stage that only remembers; the test is its Router.
@Suite("A worker over its sockets")
struct WorkerServiceTests {
    /// Request numbers of what a stage was given.
    private final class Seen: Sendable {
        let requests = Mutex<[UInt64]>([])
    }

    private final class RememberingStage: Stage {
        let store: KVStore
        let seen: Seen
        let figures = StageFigures()
        let pending = 0

        init(_ store: KVStore, _ seen: Seen) { (self.store, self.seen) = (store, seen) }

        func admit(_ work: Work) { seen.requests.withLock { $0.append(work.item.request) } }
        func step() -> Bool { false }
        func cancel(request: UInt64, through attempt: UInt32) {}
        func release(session: UInt64, drop: Bool) {}
    }

    /// The next message of this kind, without its first frame, the sender; the others are passed over.
    private func next(_ command: WorkerCommand, _ router: borrowing Socket) throws -> (
        sender: Frame, rest: ArraySlice<Frame>
    ) {
        let deadline = monotonicNanoseconds() + 20_000_000_000
        let never = Wakeup()
        while monotonicNanoseconds() < deadline {
            guard poll(router, never, timeoutMS: 100), let frames = router.receive() else { continue }
            if frames.count > 2, frames[2].bytes == [command.rawValue] { return (frames[0], frames[3...]) }
        }
        throw WorkerError(description: "no \(command) came")
    }

    @Test("answers work whose way cannot be read with a failure, and takes the rest of the message")
    func damagedWay() throws {
        let endpoint = "ipc://\(NSTemporaryDirectory())/anira-worker-\(UUID().uuidString)"
        defer { removeSocketFile(of: endpoint) }
        let context = Context()
        let seen = Seen()
        let service = try WorkerService(
            WorkerConfiguration(stage: .decider, name: "decider-0", router: endpoint, data: nil),
            checkpoint: Golden("early-1x").checkpoint, context: Context(), log: Logger(label: "worker")
        ) { store, _, _ in RememberingStage(store, seen) }
        let ended = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            #expect(throws: Never.self) { try service.run() }
            ended.signal()
        }
        do {
            var router = try Socket(.router, context)
            try router.bind(endpoint)
            let worker = try next(.ready, router).sender
            let work = [Data([0x0a, 0xff]), Data()].enumerated().map { index, onward in
                let item = Anira_Worker_V1_WorkItem.with {
                    ($0.request, $0.count, $0.onward) = (UInt64(index + 1), 1, onward)
                    $0.decider = .init()
                }
                return Work(item, tensor: nil)
            }
            #expect(router.send([worker] + (try workFrames(work))) == .sent)
            let result = try next(.result, router).rest
            let outcomes = try readOutcomes(result.first!.bytes, result.dropFirst())
            #expect(outcomes.map(\.item.request) == [1])
            #expect(outcomes[0].item.failure.code == ErrorCode.internal.rawValue)
            #expect(outcomes[0].item.failure.message.hasPrefix("malformed work: its way onward"))
            service.stop()
            _ = try next(.bye, router)
        }
        context.terminate()
        #expect(ended.wait(timeout: .now() + 20) == .success)
        #expect(seen.requests.withLock { $0 } == [2])
    }
}
