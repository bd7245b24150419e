import Foundation
import Testing

@testable import KVStore

@Suite struct OwnershipTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/core-0" }

    @Test func anotherModelsStoreIsRefusedNamingBothAndLeftAsItWas() throws {
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 2])
        store.close()
        let before = try Data(contentsOf: URL(fileURLWithPath: "\(path)/data.mdb"))
        let error = #expect(throws: KVStoreError.self) { try KVStore(configuration(path, fingerprint: "model-b")) }
        #expect(error?.code == .foreign)
        #expect("\(error!)".contains("model-a") && "\(error!)".contains("model-b"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: "\(path)/data.mdb")) == before)
        let again = try KVStore(configuration(path))
        defer { again.close() }
        #expect(try again.resume(1, at: 2) == .ready)
    }

    @Test func anotherModelsStoreThatHoldsNothingIsTakenOver() throws {
        let other = CacheShape(layers: 3, width: 8, maxEntries: 5)
        try KVStore(configuration(path, shape: other, fingerprint: "model-b-int8")).close()
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 2])
        store.close()
        #expect(try KVInspector(path: path).summary().fingerprint == "model-a")
    }

    @Test func anotherSchemaIsRefusedNamingBoth() throws {
        try KVStore(configuration(path)).close()
        try edit(path) { try $0.put("meta", Array("schema".utf8), Array("3".utf8)) }
        let error = #expect(throws: KVStoreError.self) { try KVStore(configuration(path)) }
        #expect("\(error!)".contains("schema is 3") && "\(error!)".contains("is 2"))
        #expect(throws: KVStoreError.self) { try KVInspector(path: path) }
    }

    @Test func anotherShapeIsRefused() throws {
        let other = CacheShape(layers: 2, width: 8, maxEntries: 4)
        let store = try KVStore(configuration(path))
        try store.write(1, [1, 2])
        store.close()
        let error = #expect(throws: KVStoreError.self) { try KVStore(configuration(path, shape: other)) }
        #expect("\(error!)".contains("width is 6") && "\(error!)".contains("is 8"))
    }

    @Test func aSecondOwnerIsRefusedNamingTheFirst() throws {
        let store = try KVStore(configuration(path))
        #expect(throws: KVStoreError.self) { try KVStore(configuration(path)) }
        let error = #expect(throws: KVStoreError.self) {
            try OwnerLock(path: "\(path)/owner.lock", what: "the store \(path)", instead: "one")
        }
        #expect(error?.code == .owned)
        #expect("\(error!)".contains("process \(getpid()) "))
        store.close()
        try KVStore(configuration(path)).close()
    }

    @Test func aLockFileLeftByACrashDoesNotBlock() throws {
        try KVStore(configuration(path)).close()
        try Data("999999\n".utf8).write(to: URL(fileURLWithPath: "\(path)/owner.lock"))
        let store = try KVStore(configuration(path))
        #expect(try String(contentsOfFile: "\(path)/owner.lock", encoding: .utf8) == "\(getpid())\n")
        store.close()
        #expect(!FileManager.default.fileExists(atPath: "\(path)/owner.lock"))
    }

    @Test func filesAreForTheirOwnerOnly() throws {
        try KVStore(configuration(path)).close()
        func mode(_ path: String) throws -> Int {
            try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
        }
        #expect(try mode(path) == 0o700)
        #expect(try mode("\(path)/data.mdb") == 0o600)
        #expect(try mode("\(path)/lock.mdb") == 0o600)
    }

    @Test func collectingFromALiveStoreIsRefused() throws {
        let store = try KVStore(configuration(path))
        defer { store.close() }
        let error = #expect(throws: KVStoreError.self) {
            try KVInspector.collect(path: path, keepBytes: 0, ageSeconds: 0)
        }
        #expect(error?.code == .owned)
    }

    @Test func inspectingAFolderWithoutAStoreMakesNone() throws {
        #expect(throws: KVStoreError.self) { try KVInspector(path: path) }
        #expect(!FileManager.default.fileExists(atPath: path))
        #expect(throws: KVStoreError.self) { try KVInspector.environments(data: path) }
    }
}
