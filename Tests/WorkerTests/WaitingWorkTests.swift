import Messaging
import Proto
import TestKit
import Testing

@testable import Worker

@Suite("Items that wait for a stage")
struct WaitingWorkTests {
    /// An item of `session`, told apart by its position.
    private func item(_ session: UInt64, at position: Int = 0, rows: Int = 1, request: UInt64 = 0) -> Work {
        Work(
            .with {
                $0.session = session
                $0.position = UInt32(position)
                $0.count = UInt32(rows)
                $0.request = request == 0 ? session : request
            }, tensor: nil)
    }

    private func takeRows(_ waiting: inout WaitingWork) -> [UInt64] {
        var sessions: [UInt64] = []
        while let work = waiting.row {
            sessions.append(work.item.session)
            waiting.removeRow()
        }
        return sessions
    }

    private func takeChunks(_ waiting: inout WaitingWork) -> [UInt64] {
        var sessions: [UInt64] = []
        while let work = waiting.chunk {
            sessions.append(work.item.session)
            waiting.removeChunk()
        }
        return sessions
    }

    @Test("Rows with the fewest iterations ahead go first, chunks in order of arrival")
    func order() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 64), iterations: 6)
        waiting.append(item(2), iterations: 6)
        waiting.append(item(3), iterations: 1)
        waiting.append(item(4), iterations: 3)
        waiting.append(item(5), iterations: 1)
        waiting.append(item(6, rows: 2), iterations: 1)
        #expect(waiting.count == 6)
        #expect(takeRows(&waiting) == [3, 5, 4, 2])
        #expect(takeChunks(&waiting) == [1, 6])
        #expect(waiting.count == 0)
    }

    @Test("An item that waits already is not added again")
    func twice() {
        var waiting = WaitingWork()
        for _ in 0..<2 {
            waiting.append(item(1), iterations: 1)
            waiting.append(item(2, rows: 4), iterations: 1)
        }
        #expect(waiting.count == 2)
        #expect(takeRows(&waiting) == [1])
        waiting.append(item(1), iterations: 1)
        #expect(takeRows(&waiting) == [1])
    }

    @Test("A head start is bounded: a deep row has its turn among shallow ones that keep coming")
    func patience() {
        var waiting = WaitingWork()
        waiting.append(item(1), iterations: 6)
        var turn = 0
        repeat {
            turn += 1
            waiting.append(item(UInt64(100 + turn)), iterations: 1)
            guard let work = waiting.row, work.item.session != 1 else { break }
            waiting.removeRow()
        } while turn < 1000
        #expect(turn > 1 && turn <= 6 * WaitingWork.lag)
    }

    @Test("Items of one session keep their order, whatever is taken when", arguments: 0..<50)
    func sessionOrder(_ seed: Int) {
        var random = SplitMix(state: UInt64(seed))
        var waiting = WaitingWork()
        var sent: [UInt64: Int] = [:]
        var taken: [UInt64: Int] = [:]
        func take(_ work: Work) {
            #expect(Int(work.item.position) == taken[work.item.session, default: 0])
            taken[work.item.session, default: 0] += 1
        }
        for _ in 0..<600 {
            if random.below(2) == 0 {
                let session = UInt64(random.below(5))
                let rows = random.below(3) == 0 ? 1 + random.below(3) : 1
                waiting.append(
                    item(session, at: sent[session, default: 0], rows: rows), iterations: 1 + random.below(40))
                sent[session, default: 0] += 1
            } else if random.below(2) == 0, let work = waiting.row {
                take(work)
                waiting.removeRow()
            } else if let work = waiting.chunk {
                take(work)
                waiting.removeChunk()
            }
        }
        #expect(waiting.count == sent.values.reduce(0, +) - taken.values.reduce(0, +))
    }

    @Test("Cancelling a request takes its items up to the attempt, and no others")
    func cancel() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 8, request: 7), iterations: 1)
        waiting.append(item(1, at: 8, request: 7), iterations: 1)
        waiting.append(item(2, request: 8), iterations: 1)
        var later = item(1, request: 7)
        later.item.attempt = 1
        waiting.append(later, iterations: 1)
        waiting.cancel(request: 7, through: 0)
        #expect(waiting.count == 2)
        #expect(takeRows(&waiting) == [2])
        #expect(takeChunks(&waiting) == [1])
        // Nothing of the session waits any more: its next row is a decoding one again.
        waiting.append(item(1), iterations: 1)
        #expect(takeRows(&waiting) == [1])
    }
}
