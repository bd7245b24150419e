import Foundation
import KVStore
import Testing

@testable import Router

@Suite final class LedgerTests {
    private let data = NSTemporaryDirectory() + "ledger-tests-\(UUID().uuidString)"
    private let session = SessionRecord(id: 7, tokens: [1, 2, 3], depths: Data([1, 2]), pins: ["core-0"])
    private let answer = ResultRecord(number: 1, id: "r1", digest: 5, reply: Data([10, 2, 65, 66]))

    deinit { try? FileManager.default.removeItem(atPath: data) }

    private func ledger() throws -> Ledger { try Ledger(data: data, fingerprint: "model-a", durability: .process) }

    private func written() throws {
        let ledger = try ledger()
        defer { ledger.close() }
        try ledger.put([Ending(answer: answer, session: ("chat", session))])
        try ledger.put(owedDrops: ["core/core-0": [7]])
    }

    /// Changes the raw values of a database.
    private func edit(_ name: String, _ change: ([UInt8]) -> [UInt8]) throws {
        let environment = try Environment(
            path: "\(data)/router", access: .owner(.process), names: Ledger.names)
        defer { environment.close() }
        try environment.write { txn in
            var found: [(key: [UInt8], value: [UInt8])] = []
            try txn.scan(name, from: []) { key, value in
                if key.elementsEqual("fingerprint".utf8) { return true }
                found.append((Array(key), Array(value)))
                return true
            }
            for (key, value) in found { try txn.put(name, key, change(value)) }
        }
    }

    @Test func whatWasWrittenComesBack() throws {
        try written()
        let contents = try ledger().contents()
        #expect(contents.sessions == ["chat": session])
        #expect(contents.results == [answer])
        #expect(contents.owedDrops == ["core/core-0": [7]])
    }

    /// The older of two records came back, and one of a dropped session.
    @Test func namesThatUnicodeHoldsEqualAreOneSession() throws {
        let ledger = try ledger()
        defer { ledger.close() }
        let later = SessionRecord(id: 7, tokens: [1, 2, 3, 4], depths: Data([1, 2, 3]), pins: ["core-0"])
        try ledger.put([Ending(session: ("caf\u{e9}", session)), Ending(session: ("cafe\u{301}", later))])
        #expect(try ledger.contents().sessions == ["caf\u{e9}": later])
        try ledger.put([Ending(session: ("cafe\u{301}", nil))])
        #expect(try ledger.contents().sessions.isEmpty)
    }

    /// An answer with another text was given, a session went on from another token, or the start failed with raw errors.
    @Test(arguments: ["sessions", "results", "meta"], [4, 20, -1])
    func aFlippedBitIsRefusedNamingTheStore(database: String, place: Int) throws {
        try written()
        try edit(database) { value in
            var value = value
            value[place < 0 ? value.count + place : place] ^= 1
            return value
        }
        let ledger = try ledger()
        defer { ledger.close() }
        let error = #expect(throws: KVStoreError.self) { try ledger.contents() }
        #expect(error?.code == .damaged)
        #expect(error.map { "\($0)".contains("\(data)/router") } ?? false)
    }

    /// Without a checksum only what no longer decodes is found; that ended the start with the decoder's own words.
    @Test(arguments: ["sessions", "results", "meta"])
    func aDamagedValueOfAnEarlierReleaseIsRefusedNamingTheStore(database: String) throws {
        try written()
        try edit(database) { Array($0.dropFirst(4).dropLast(20)) }
        let ledger = try ledger()
        defer { ledger.close() }
        let error = #expect(throws: KVStoreError.self) { try ledger.contents() }
        #expect(error?.code == .damaged)
    }

    @Test func valuesOfEarlierReleasesAreRead() throws {
        try written()
        for name in ["sessions", "results", "meta"] { try edit(name) { Array($0.dropFirst(4)) } }
        let contents = try ledger().contents()
        #expect(contents.sessions == ["chat": session] && contents.results == [answer])
        #expect(contents.owedDrops == ["core/core-0": [7]])
    }
}
