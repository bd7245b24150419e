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

    private func takeAll(_ waiting: inout WaitingWork, prompts: Bool = true) -> [UInt64] {
        var sessions: [UInt64] = []
        while let (work, isPrompt) = waiting.next(mayTakePrompt: prompts) {
            sessions.append(work.item.session)
            waiting.remove(isPrompt: isPrompt)
        }
        return sessions
    }

    @Test("Rows that decode go before prompts, those with the fewest iterations ahead first")
    func order() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 64), iterations: 1)
        waiting.append(item(2), iterations: 6)
        waiting.append(item(3), iterations: 1)
        waiting.append(item(4), iterations: 3)
        waiting.append(item(5), iterations: 1)
        #expect(waiting.count == 5)
        #expect(takeAll(&waiting) == [3, 5, 4, 2, 1])
        #expect(waiting.count == 0)
    }

    @Test("No prompt is taken where none may be")
    func room() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 2), iterations: 1)
        waiting.append(item(2), iterations: 1)
        #expect(takeAll(&waiting, prompts: false) == [2])
        #expect(waiting.count == 1)
    }

    @Test("A head start is bounded: a prompt and a deep row have their turn among rows that keep coming")
    func patience() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 64), iterations: 6)
        waiting.append(item(2), iterations: 6)
        waiting.append(item(3), iterations: 1)
        var turns: [UInt64: Int] = [:]
        for turn in 0..<400 {
            waiting.append(item(UInt64(100 + turn)), iterations: 1)
            guard let (work, isPrompt) = waiting.next(mayTakePrompt: true) else { break }
            turns[work.item.session] = turn
            waiting.remove(isPrompt: isPrompt)
        }
        #expect(turns[3] == 0)
        #expect(turns[2].map { $0 <= 6 * WaitingWork.iterationLag } == true)
        #expect(turns[1].map { $0 <= WaitingWork.promptLag + 2 } == true)
    }

    @Test("Items of one session keep their order, whatever may be taken when", arguments: 0..<50)
    func sessionOrder(_ seed: Int) {
        var random = SplitMix(state: UInt64(seed))
        var waiting = WaitingWork()
        var sent: [UInt64: Int] = [:]
        var taken: [UInt64: Int] = [:]
        for _ in 0..<600 {
            if random.below(2) == 0 {
                let session = UInt64(random.below(5))
                let rows = random.below(3) == 0 ? 1 + random.below(3) : 1
                waiting.append(
                    item(session, at: sent[session, default: 0], rows: rows), iterations: 1 + random.below(40))
                sent[session, default: 0] += 1
            } else if let (work, isPrompt) = waiting.next(mayTakePrompt: random.below(3) > 0) {
                #expect(Int(work.item.position) == taken[work.item.session, default: 0])
                taken[work.item.session, default: 0] += 1
                waiting.remove(isPrompt: isPrompt)
            }
        }
        _ = takeAll(&waiting)
        #expect(waiting.count == 0)
    }

    @Test("Cancelling a request takes its items up to the attempt, and no others")
    func cancel() {
        var waiting = WaitingWork()
        waiting.append(item(1, rows: 8, request: 7), iterations: 1)
        waiting.append(item(1, at: 8, request: 7), iterations: 1)
        waiting.append(item(2, request: 8), iterations: 1)
        var later = item(1, at: 0, request: 7)
        later.item.attempt = 1
        waiting.append(later, iterations: 1)
        waiting.cancel(request: 7, through: 0)
        #expect(waiting.count == 2)
        #expect(takeAll(&waiting) == [2, 1])
        // Nothing of the session waits any more: its next row is a decoding one again.
        waiting.append(item(3, rows: 2), iterations: 1)
        waiting.append(item(1), iterations: 1)
        #expect(takeAll(&waiting) == [1, 3])
    }
}
