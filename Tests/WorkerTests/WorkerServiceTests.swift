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
    /// A damaged store was told as a full one, which clients try again for ever.
    @Test func onlyAStoreWithoutRoomIsStoreFull() {
        for (code, expected) in [
            (KVStoreError.Code.full, ErrorCode.storeFull), (.system, .internal), (.damaged, .internal),
        ] {
            #expect(ErrorCode(of: KVStoreError(code, "commit to", path: "x")) == expected)
        }
    }

    /// Request numbers of what a stage was given.
    private final class Seen: Sendable {
        let requests = Mutex<[UInt64]>([])
    }

    private final class Count: Sendable {
        private let count = Atomic(0)
        var value: Int { count.load(ordering: .acquiring) }
        func add() { count.add(1, ordering: .acquiringAndReleasing) }
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

    /// Serves a stage until `body`, its Router, has returned.
    private func serve(
        _ stage: @escaping @Sendable (KVStore) -> any Stage, _ body: (inout Socket, Frame) throws -> Void
    ) throws {
        let endpoint = "ipc://\(NSTemporaryDirectory())/anira-worker-\(UUID().uuidString)"
        defer { removeSocketFile(of: endpoint) }
        let context = Context()
        let service = try WorkerService(
            WorkerConfiguration(stage: .decider, name: "decider-0", router: endpoint, data: nil),
            checkpoint: Golden("early-1x").checkpoint, context: Context(), log: Logger(label: "worker")
        ) { store, _, _ in stage(store) }
        let ended = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            #expect(throws: Never.self) { try service.run() }
            ended.signal()
        }
        do {
            var router = try Socket(.router, context)
            try router.bind(endpoint)
            let worker = try next(.ready, router).sender
            try body(&router, worker)
            service.stop()
            _ = try next(.drain, router)
            // One that this Router has not registered does not wait for it, and may be gone.
            #expect([.sent, .unroutable].contains(router.send([worker] + workerFrames(.drain))))
            _ = try next(.bye, router)
        }
        context.terminate()
        #expect(ended.wait(timeout: .now() + 20) == .success)
    }

    @Test("answers work whose way cannot be read with a failure, and takes the rest of the message")
    func damagedWay() throws {
        let seen = Seen()
        try serve({ RememberingStage($0, seen) }) { router, worker in
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
        }
        #expect(seen.requests.withLock { $0 } == [2])
    }

    /// Its steps take twenty times the interval of the Router's heartbeats.
    private final class SlowStage: Stage {
        let store: KVStore
        let steps: Count
        let figures = StageFigures()
        var pending: Int { steps.value < 5 ? 1 : 0 }

        init(_ store: KVStore, _ steps: Count) { (self.store, self.steps) = (store, steps) }

        func admit(_ work: Work) {}
        func step() -> Bool {
            usleep(200_000)
            steps.add()
            return true
        }
        func cancel(request: UInt64, through attempt: UInt32) {}
    }

    /// What the Router had sent meanwhile was read only after the worker had concluded that it was gone; the worker then
    /// registered again and was silent until the next step ended.
    @Test("does not take the Router for gone because of a long step")
    func longStep() throws {
        let steps = Count()
        try serve({ SlowStage($0, steps) }) { router, worker in
            let ack = Anira_Worker_V1_ReadyAck.with {
                ($0.protocolVersion, $0.heartbeatMs) = (workerProtocolVersion, 10)
            }
            var messages = [Frame(try ack.serializedBytes() as [UInt8])]
            #expect(router.send([worker] + workerFrames(.readyAck) + messages) == .sent)
            messages = [Frame(try Anira_Worker_V1_Heartbeat().serializedBytes() as [UInt8])]
            var registrations = 0
            while steps.value < 5 {
                #expect(router.send([worker] + workerFrames(.heartbeat) + messages) == .sent)
                while let frames = router.receive() {
                    if steps.value > 1, frames.count > 2, frames[2].bytes == [WorkerCommand.ready.rawValue] {
                        registrations += 1
                    }
                }
                usleep(5_000)
            }
            #expect(registrations == 0)
        }
    }

    /// Takes its time over each item.
    private final class ThoroughStage: Stage {
        let store: KVStore
        let admitted: Count
        let figures = StageFigures()
        let pending = 0

        init(_ store: KVStore, _ admitted: Count) { (self.store, self.admitted) = (store, admitted) }

        func admit(_ work: Work) {
            usleep(5_000)
            admitted.add()
        }
        func step() -> Bool { false }
        func cancel(request: UInt64, through attempt: UInt32) {}
    }

    /// With ZMQ_IMMEDIATE libzmq dropped what was not read yet, and aborted between two frames of a message: at the hundredth
    /// frame it looks what has become of its connections.
    @Test("survives a Router that goes while much is unread, and reads it")
    func departedRouter() throws {
        let admitted = Count()
        try serve({ ThoroughStage($0, admitted) }) { router, worker in
            let item = Anira_Worker_V1_WorkItem.with {
                ($0.request, $0.count) = (1, 1)
                $0.core = .init()
            }
            let work = [Work(item, tensor: Tensor(Frame([UInt8](repeating: 0, count: 4))))]
            for _ in 0..<100 { #expect(router.send([worker] + (try workFrames(work))) == .sent) }
            while admitted.value == 0 { usleep(1_000) }
            let endpoint = router.endpoint
            router = try Socket(.router, Context())
            try router.bind(endpoint)
            _ = try next(.ready, router)
            #expect(admitted.value == 100)
        }
    }
}
