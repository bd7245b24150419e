import Messaging
import Model
import Proto
import Testing

@testable import Router

@Suite("Where a request's time goes adds up")
struct ClockTests {
    /// Microseconds from 1 s on.
    private func times(
        sent: UInt64, taken: UInt64, queue: Float, compute: Float, decide: Float = 0, store: Float = 0, settled: UInt64
    ) -> ItemTimes {
        ItemTimes(
            .with {
                $0.sentNs = 1_000_000_000 + sent * 1000
                $0.takenNs = 1_000_000_000 + taken * 1000
                ($0.queueUs, $0.computeUs, $0.decideUs, $0.storeUs) = (queue, compute, decide, store)
            }, settled: 1_000_000_000 + settled * 1000)
    }

    @Test("One item after the other")
    func sequence() {
        var clock = RequestClock(start: 1_000_000_000)
        let decided = times(sent: 5, taken: 15, queue: 2, compute: 20, decide: 4, store: 3, settled: 50)
        clock.add(.decider, decided, handedOver: true)
        clock.add(
            .core, times(sent: 37, taken: 40, queue: 1, compute: 30, store: 9, settled: 90), handedOver: false)
        let (decider, core) = (clock.stages[0], clock.stages[1])
        #expect(decider.transport == 10_000 && decider.queue == 2000)
        #expect(decider.compute == 16_000 && decider.decide == 4000 && decider.store == 0)
        #expect(core.transport == 3000 + 10_000 && core.queue == 1000 && core.compute == 30_000 && core.store == 9000)
        #expect(clock.router(of: 90_000) == 5000)
    }

    @Test("Items that overlap are not counted twice")
    func overlap() {
        var clock = RequestClock(start: 1_000_000_000)
        for settled in [100, 100, 120] as [UInt64] {
            clock.add(
                .core, times(sent: 0, taken: 10, queue: 10, compute: 70, store: 5, settled: settled), handedOver: false)
        }
        #expect(clock.stages[1].total == 120_000)
        #expect(clock.router(of: 130_000) == 10_000)
    }

    @Test("Times of another machine's clock, or nonsense, cannot make more than there was")
    func foreign() {
        var clock = RequestClock(start: 1_000_000_000)
        clock.add(
            .decider, times(sent: 9_000_000, taken: 3, queue: .nan, compute: .infinity, settled: 50), handedOver: false)
        clock.add(
            .core, times(sent: 0, taken: 0, queue: -5, compute: 1e20, decide: 1e9, settled: 80), handedOver: false)
        #expect(clock.stages.reduce(0) { $0 + $1.total } <= 80_000)
    }
}
