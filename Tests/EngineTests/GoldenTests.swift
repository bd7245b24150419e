import Engine
import Foundation
import KVStore
import Messaging
import Model
import Proto
import TestKit
import Testing
import Worker

/// The four golden checkpoints, computed by an independent implementation in float32 (docs/model.md).
/// Tolerances: logits 1e-4, exit distributions 1e-4, depths and greedy tokens exact.
@Suite("Golden checkpoints")
struct GoldenTests {
    static let cases = ["early-1x", "early-gqa", "online-1x", "online-2core"]

    @Test("Logits, depths and exit distributions match the reference", arguments: cases)
    func inference(_ name: String) throws {
        let golden = try Golden(name)
        let engine = try LocalEngine(golden.checkpoint, residentMiB: 16)
        for (index, expected) in golden.expected.infer.enumerated() {
            let (reply, tensors) = engine.run([expected.request(id: "\(name)-\(index)")])[0]
            #expect(reply.scored.depths.map(Int.init) == expected.depths)
            let logits = floats(tensors.first)
            #expect(logits.count == expected.logits.reduce(0) { $0 + $1.count })
            #expect(largestDifference(logits, expected.logits.flatMap(\.self)) < 1e-4)
            for (found, row) in zip(reply.scored.exitDistributions, expected.exitDistribution) {
                let values = found.values.map { Float($0.numberValue) }
                #expect(largestDifference(values, row.compactMap(\.self)) < 1e-4)
                #expect(values.count == row.compactMap(\.self).count)
            }
        }
    }

    @Test("Greedy continuations match the reference", arguments: cases)
    func greedy(_ name: String) throws {
        let golden = try Golden(name)
        let engine = try LocalEngine(golden.checkpoint, residentMiB: 16)
        for (index, expected) in golden.expected.greedy.enumerated() {
            let reply = engine.run([expected.request(id: "\(name)-\(index)")])[0].reply
            #expect(reply.completed.tokens == expected.newTokens)
            let depths = reply.completed.promptDepths + reply.completed.depths.dropFirst()
            #expect(depths.map(Int.init) == Array(expected.depths.prefix(depths.count)))
        }
    }

    @Test(
        "Prefill, chunks and single tokens give the same bits", arguments: cases,
        [(1, StoredType.f32), (3, .f32), (7, .f32), (1, .f16), (7, .bf16)])
    func chunking(_ name: String, _ held: (chunk: Int, kv: StoredType)) throws {
        let golden = try Golden(name)
        let whole = try LocalEngine(golden.checkpoint, kv: held.kv, residentMiB: 16)
        let chunked = try LocalEngine(golden.checkpoint, kv: held.kv, residentMiB: 16, chunk: held.chunk)
        let request = golden.expected.infer[0].request(id: "r")
        #expect(floats(whole.run([request])[0].tensors.first) == floats(chunked.run([request])[0].tensors.first))
    }

    @Test("Keys and values held shorter change logits a little", arguments: cases, [StoredType.f16, .bf16])
    func shortKeys(_ name: String, _ kv: StoredType) throws {
        let golden = try Golden(name)
        var request = golden.expected.infer[0].request(id: "r")
        // At one depth for both: a changed exit would be another computation.
        request.score.depth = .with {
            $0.policy = "fixed"
            $0.value = 2
        }
        let exact = floats(try LocalEngine(golden.checkpoint, residentMiB: 16).run([request])[0].tensors.first)
        let short = floats(try LocalEngine(golden.checkpoint, kv: kv, residentMiB: 16).run([request])[0].tensors.first)
        let most = exact.map(abs).max() ?? 0
        #expect(largestDifference(exact, short) > 0)
        #expect(largestDifference(exact, short) < most * (kv == .f16 ? 0.002 : 0.02))
    }

    @Test("A request among many gives the same bits as alone", arguments: cases, [64, 5, 1])
    func batching(_ name: String, _ promptRows: Int) throws {
        let golden = try Golden(name)
        let requests = golden.expected.infer.enumerated().map { $1.request(id: "r\($0)") }
        let limits = RowLimits(decoding: 2, prompts: promptRows)
        let together = try LocalEngine(golden.checkpoint, residentMiB: 16, limits: limits).run(requests)
        for (request, shared) in zip(requests, together) {
            let alone = try LocalEngine(golden.checkpoint, residentMiB: 16).run([request])[0]
            #expect(floats(alone.tensors.first) == floats(shared.tensors.first))
            #expect(alone.reply.scored.depths == shared.reply.scored.depths)
        }
    }

    @Test("More sessions than memory holds: all end, and what is answered is right", arguments: cases)
    func crowded(_ name: String) throws {
        let golden = try Golden(name)
        let c = golden.checkpoint.configuration
        let length = c.maxPositionEmbeddings - 8
        let requests = (0..<48).map { index in
            ClientRequest.with {
                $0.id = "r\(index)"
                $0.generate.tokens = (0..<Int32(index % 3 == 0 ? 4 : length)).map {
                    ($0 * 7 + Int32(index)) % Int32(c.vocabSize)
                }
                $0.generate.maxNewTokens = 6
            }
        }
        // Memory for two long sessions; chunks join in parts, rows and chunks have to wait for room. Without a file a
        // session that made room is computed again, and after the sixteenth time given up.
        let crowded = try LocalEngine(
            golden.checkpoint, residentMiB: 1, limits: RowLimits(decoding: 3, prompts: 5), chunk: 8)
        for request in requests { crowded.submit(request) }
        var steps = 0
        while crowded.step(), steps < 200_000 { steps += 1 }
        #expect(!crowded.step())
        let roomy = try LocalEngine(golden.checkpoint, residentMiB: 64)
        for (request, expected) in zip(requests, roomy.run(requests)) {
            let found = try #require(crowded.take(request.id).last?.reply)
            guard found.error.code != "UNAVAILABLE" else { continue }
            #expect(found.completed.tokens == expected.reply.completed.tokens)
            #expect(found.completed.promptDepths == expected.reply.completed.promptDepths)
        }
    }

    @Test("Trained MANO models answer and spend depth as recorded", arguments: ["mano-early", "mano-online"])
    func mano(_ name: String) throws {
        struct Expected: Decodable {
            struct Prompt: Decodable {
                let text: String
                let answer: String
                let depths: [Int32]
            }
            let prompts: [Prompt]
        }
        let folder = Golden.repository.appendingPathComponent("checkpoints/\(name)")
        let data = try Data(contentsOf: folder.appendingPathComponent("expected.json"))
        let engine = try LocalEngine(try Checkpoint(directory: folder.path), residentMiB: 16)
        for (index, prompt) in try JSONDecoder().decode(Expected.self, from: data).prompts.enumerated() {
            var request = ClientRequest()
            request.id = "r\(index)"
            request.generate.text = prompt.text
            request.generate.maxNewTokens = 1
            let reply = engine.run([request])[0].reply.completed
            #expect(reply.text == prompt.answer)
            #expect(reply.promptDepths == prompt.depths)
        }
    }
}

func floats(_ frame: Frame?) -> [Float] {
    guard let frame else { return [] }
    return frame.withBytes { Array($0.bindMemory(to: Float.self)) }
}

func largestDifference(_ a: [Float], _ b: [Float]) -> Float {
    zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) }
}
