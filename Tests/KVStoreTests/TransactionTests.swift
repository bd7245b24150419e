import Testing

@testable import KVStore

@Suite struct TransactionTests {
    private let folder = TemporaryFolder()

    private func environment() throws -> Environment {
        try Environment(path: "\(folder.path)/ledger", access: .owner(.process), names: ["a", "b"], mapBytes: 1 << 20)
    }

    @Test func aTransactionCommitsOnReturnAndAbortsOnThrow() throws {
        struct Stop: Error {}
        let environment = try environment()
        defer { environment.close() }
        try environment.write { try $0.put("a", [1], [10]) }
        #expect(throws: Stop.self) {
            try environment.write { txn in
                try txn.put("a", [1], [99])
                try txn.put("a", [2], [20])
                throw Stop()
            }
        }
        #expect(try environment.read { try $0.get("a", [1]) } == [10])
        #expect(try environment.read { try $0.get("a", [2]) } == nil)
        #expect(try environment.read { try $0.get("b", [1]) } == nil)
        #expect(try environment.read { try $0.count("a") } == 1)
    }

    @Test func keysComeInOrderFromAnywhere() throws {
        let environment = try environment()
        defer { environment.close() }
        try environment.write { txn in
            for key in [UInt8](0..<50).shuffled() { try txn.put("a", [key * 2], [key]) }
        }
        var keys: [UInt8] = []
        try environment.read { txn in
            try txn.scan("a", from: [31]) { key, _ in
                keys.append(key[0])
                return keys.count < 3
            }
        }
        #expect(keys == [32, 34, 36])
    }

    @Test func deletingARangeStopsAtItsLimitAndItsEnd() throws {
        let environment = try environment()
        defer { environment.close() }
        try environment.write { txn in for key in UInt8(0)..<100 { try txn.put("a", [key], [1, 2]) } }
        let first = try environment.write { try $0.deleteRange("a", from: [10], limit: 7) { $0[0] < 30 } }
        #expect(first == (7, 21))
        let rest = try environment.write { try $0.deleteRange("a", from: [10]) { $0[0] < 30 } }
        #expect(rest == (13, 39))
        #expect(try environment.read { try $0.count("a") } == 80)
        #expect(try environment.write { try $0.delete("a", [10]) } == false)
    }

    @Test func aPutThatCannotAppendIsInserted() throws {
        let environment = try environment()
        defer { environment.close() }
        let outcomes = try environment.write { txn in
            try [(5, 1), (4, 1), (5, 2)].map { try txn.put("a", [$0.0], [$0.1], appending: true) }
        }
        #expect(outcomes == [.appended, .inserted, .inserted])
        #expect(try environment.read { try $0.get("a", [5]) } == [2])
    }

    @Test func aFullMapGrowsAndTheTransactionRunsAgain() throws {
        let environment = try environment()
        defer { environment.close() }
        var runs = 0
        try environment.write { txn in
            runs += 1
            for key in UInt8(0)..<40 { try txn.put("a", [key], [UInt8](repeating: key, count: 100_000)) }
        }
        #expect(runs > 1)
        #expect(try environment.read { try $0.get("a", [39])?.count } == 100_000)
        #expect(environment.mapUsedRatio < 1)
    }

    @Test func anUnknownDatabaseIsAnErrorThatNamesIt() throws {
        let environment = try environment()
        defer { environment.close() }
        let error = #expect(throws: KVStoreError.self) { try environment.read { try $0.get("c", [1]) } }
        #expect(error?.code == .notFound && "\(error!)".contains("'c'"))
    }
}
