import Foundation
import KVStore
import Testing

@Suite("What lies in the folder: refused when foreign, reported when damaged, readable with stock tools")
struct StoreFileTests {
    @Test("mdb_stat counts tokens and mdb_dump shows session, position and deepest entry, beside the owner")
    func stock() throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [1, 5])
        try bench.write(0x0203, at: 0, [3])
        #expect(try bench.stock("mdb_stat", ["-s", "kv", bench.path]).contains("Entries: 3\n"))
        #expect(try bench.stock("mdb_stat", ["-s", "sessions", bench.path]).contains("Entries: 2\n"))
        #expect(
            try bench.keys("kv") == [
                "00000000000000010000000000", "00000000000000010000000104", "00000000000002030000000002",
            ])
        try bench.write(1, at: 2, [2])
        #expect(try bench.stock("mdb_stat", ["-s", "kv", bench.path]).contains("Entries: 4\n"))
    }

    @Test("mdb_copy beside the owner is a store of its own")
    func copy() throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [1, 5, 3], name: "tea")
        let copy = "\(bench.folder)/copy"
        try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
        _ = try bench.stock("mdb_copy", ["-c", bench.path, copy])
        let inspector = try KVInspector(path: copy)
        #expect(try inspector.sessions().map(\.positionsByEntries) == [[1, 0, 1, 0, 1]])
        #expect(try inspector.sessions().map(\.name) == ["tea"])
        #expect(try inspector.verify().problems.isEmpty)
    }

    @Test("Another process may look while the owner writes, and sees whole commits")
    func beside() throws {
        let bench = try StoreBench { $0.mapBytes = 1 << 17 }
        for round in 1...10 {
            for session in 1...20 as ClosedRange<UInt64> {
                try bench.write(session, at: 0, [Int](repeating: round % 5 + 1, count: round), flush: false)
            }
            bench.store.flush()
            #expect(try bench.keys("kv").count == 20 * round)
        }
    }

    @Test("A second owner is refused naming the first one's process")
    func secondOwner() throws {
        let bench = try StoreBench()
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
        child.arguments = ["-n", "\(bench.path)/owner.lock", "true"]
        try child.run()
        child.waitUntilExit()
        #expect(child.terminationStatus == 1, "another process does not get the lock")
        let error = #expect(throws: KVStoreError.self) {
            try OwnerLock(path: "\(bench.path)/owner.lock", what: "it", instead: "one")
        }
        #expect(error?.code == .owned)
        #expect(error.map { "\($0)".contains("process \(getpid()) ") } == true)
        bench.close()
        #expect(!FileManager.default.fileExists(atPath: "\(bench.path)/owner.lock"))
    }

    @Test("A store held by another process is refused naming it, and opens once that has ended")
    func otherProcess() throws {
        let bench = try StoreBench()
        bench.close()
        let (child, output) = (Process(), Pipe())
        child.executableURL = URL(fileURLWithPath: "/bin/sh")
        let script = "exec 9>\"$0\"; flock 9; echo $$ > \"$0\"; echo held; read line"
        child.arguments = ["-c", script, "\(bench.path)/owner.lock"]
        child.standardOutput = output
        let input = Pipe()
        child.standardInput = input
        try child.run()
        #expect(!output.fileHandleForReading.availableData.isEmpty)
        let setup = bench.setup
        let error = #expect(throws: KVStoreError.self) {
            try KVStore(StoreBench.configuration(setup, bench.path)).close()
        }
        #expect(error?.code == .owned)
        #expect(error.map { "\($0)".contains("process \(child.processIdentifier) ") } == true)
        try input.fileHandleForWriting.write(contentsOf: Data("end\n".utf8))
        child.waitUntilExit()
        try bench.reopen()
    }

    @Test("Another model, shape or stage is refused naming both values, and nothing is overwritten")
    func foreign() throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [1, 2])
        bench.close()
        let before = try Data(contentsOf: URL(fileURLWithPath: "\(bench.path)/data.mdb"))
        let changes: [((inout StoreBench.Setup) -> Void, [String])] = [
            ({ $0.fingerprint = "fingerprint-2" }, ["fingerprint-1", "fingerprint-2"]),
            ({ $0.shape.width = 4 }, ["width is 3", "is 4"]), ({ $0.shape.layers = 1 }, ["layers is 2", "is 1"]),
            ({ $0.shape.maxEntries = 6 }, ["entries is 5", "is 6"]),
        ]
        for (change, words) in changes {
            var setup = bench.setup
            change(&setup)
            let error = #expect(throws: KVStoreError.self) {
                try KVStore(StoreBench.configuration(setup, bench.path)).close()
            }
            #expect(error?.code == .foreign)
            for word in words { #expect(error.map { "\($0)".contains(word) } == true) }
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: "\(bench.path)/data.mdb")) == before)
        try bench.reopen()
        #expect(try bench.prepare(1, 2) == .ready)
    }

    @Test("A newer schema is refused by the store and by the inspector")
    func schema() throws {
        let bench = try StoreBench()
        try bench.atRest { try $0.put("meta", Array("schema".utf8), Array("99".utf8)) }
        let error = #expect(throws: KVStoreError.self) { try bench.reopen() }
        #expect(error?.code == .foreign && error.map { "\($0)".contains("99") } == true)
        #expect(throws: KVStoreError.self) { try KVInspector(path: bench.path) }
    }

    @Test("Any one flipped bit of a record is named by verify and never served", arguments: 0..<24)
    func flipped(_ sample: Int) throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [2, 4, 3])
        let key = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 3] as [UInt8]
        try bench.atRest { txn in
            var value = try #require(try txn.get("kv", key))
            // Every byte of the header, some of the floats; bytes 12–15 are padding that nothing reads.
            let offset = sample < 12 ? sample : 16 + (sample - 12) * (value.count - 16) / 12
            value[offset] ^= 1 << UInt8(sample % 8)
            try txn.put("kv", key, value)
        }
        let problems = try KVInspector(path: bench.path).verify().problems
        #expect(problems.map(\.key) == ["00000000000000010000000103"])
        #expect(problems.map(\.position) == [1])
        try bench.reopen()
        #expect(try bench.prepare(1, 3) == .needContext(from: 1))
        bench.naive[1]!.removeLast(2)
        #expect(bench.equalsNaive(1))
        try bench.write(1, at: 1, [5, 5])
        bench.close()
        #expect(try KVInspector(path: bench.path).verify().problems.isEmpty, "rewritten, the session is whole")
    }

    @Test("A hole needs context from there, at the first, a middle and the last position", arguments: 0..<4)
    func hole(_ position: Int) throws {
        let bench = try StoreBench()
        try bench.write(1, at: 0, [1, 1, 1, 1])
        try bench.atRest { try $0.delete("kv", [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, UInt8(position), 0]) }
        #expect(try !KVInspector(path: bench.path).verify().problems.isEmpty)
        try bench.reopen()
        #expect(try bench.prepare(1, 4) == .needContext(from: position))
    }
}
