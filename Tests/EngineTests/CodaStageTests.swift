import CodaService
import Foundation
import KVStore
import Messaging
import Model
import Proto
import TestKit
import Testing
import Worker

/// The coda fed by hand: where a drawn token goes.
@Suite("The coda hands on what it draws")
struct CodaStageTests {
    private final class Seen: @unchecked Sendable {  // the stage posts from the test's own thread
        var outcomes: [Anira_Worker_V1_ResultItem] = []
        var handedOver: [(rows: [Work], peer: Anira_Worker_V1_Peer)] = []
    }

    private let decider = Anira_Worker_V1_Peer.with { ($0.inbox, $0.worker) = ("inproc://decider", "decider#1") }

    /// The result of one row at position 0, and what was handed on.
    private func draw(
        _ change: (inout Anira_Worker_V1_WorkItem, inout Anira_Worker_V1_Onward) -> Void
    ) throws -> Seen {
        let checkpoint = try Golden("early-1x").checkpoint
        let model = checkpoint.configuration
        let shape = CacheShape(layers: model.numCodaLayers, width: model.keyValueSize, maxEntries: 1)
        let store = try KVStore(
            KVStoreConfiguration(
                directory: nil, stage: "coda", shape: shape, fingerprint: "", residentBytes: 64 * shape.rowFloats * 4))
        let seen = Seen()
        let stage = CodaStage(
            try Coda(checkpoint), store: store, limits: RowLimits(), post: { seen.outcomes.append($0.item) },
            handOver: { rows, peer in
                seen.handedOver.append((rows, peer))
                return true
            })
        var item = Anira_Worker_V1_WorkItem()
        (item.request, item.session, item.count) = (7, 3, 1)
        item.continuing = 2
        item.coda.sample = true
        var onward = Anira_Worker_V1_Onward()
        onward.continuation = .with {
            $0.decider = decider
            $0.depth.rule = .cdf
        }
        change(&item, &onward)
        item.onward = try onward.serializedData()
        let floats = (0..<model.hiddenSize).map { Float($0 % 7) - 3 }
        var work = Work(item, tensor: floats.withUnsafeBufferPointer { Tensor(floats: $0) })
        work.onward = onward
        stage.admit(work)
        while stage.pending > 0, stage.step() {}
        return seen
    }

    @Test("to the decider, as the position after its row, with one token less to go")
    func continues() throws {
        var way = Data()
        let seen = try draw { _, onward in way = (try? onward.serializedData()) ?? way }
        #expect(seen.outcomes.map(\.handedTo) == ["decider#1"])
        let next = try #require(seen.handedOver.first)
        #expect(next.peer == decider && next.rows.count == 1 && next.rows[0].tensor == nil)
        let item = next.rows[0].item
        #expect((item.request, item.session, item.position, item.count) == (7, 3, 1, 1))
        #expect(item.addressee == "decider#1")
        #expect(item.decider.tokens == [seen.outcomes[0].coda.token] && item.decider.depths.isEmpty)
        #expect(item.decider.depth.rule == .cdf)
        #expect(item.continuing == 1 && item.onward == way)
    }

    /// Log-probabilities were read beside the one row of logits that a draw makes.
    @Test("nowhere with targets beside a draw: that is refused")
    func targetsBesideADraw() throws {
        let seen = try draw { item, _ in item.coda.targets = [1] }
        #expect(seen.outcomes.map(\.failure.code) == ["INTERNAL"])
    }

    @Test("to the Router only: a stop token, the last one, one that nothing was said about")
    func ends() throws {
        let token = try draw { _, _ in }.outcomes[0].coda.token
        let ends: [(inout Anira_Worker_V1_WorkItem, inout Anira_Worker_V1_Onward) -> Void] = [
            { $1.continuation.stopTokens = [token] }, { item, _ in item.continuing = 0 },
            { $1.clearContinuation() },
        ]
        for end in ends {
            let seen = try draw(end)
            #expect(seen.handedOver.isEmpty)
            #expect(seen.outcomes.map(\.handedTo) == [""])
            #expect(seen.outcomes[0].coda.token == token)
        }
    }
}
