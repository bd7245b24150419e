import Foundation
public struct KVStoreError: Error { public var description: String { "x" } }
public struct CacheShape: Sendable, Equatable { public var layers, width, maxEntries: Int
 public init(layers: Int, width: Int, maxEntries: Int) { self.layers = layers; self.width = width; self.maxEntries = maxEntries }
 public var rowFloats: Int { layers * 2 * width } }
public enum Durability: String, Sendable { case process, power }
public enum StoredType: String, Sendable { case f32, f16, bf16 }
public struct KVStoreConfiguration: Sendable {
  public var directory: String?; public var stage: String; public var shape: CacheShape; public var fingerprint: String; public var residentBytes: Int; public var durability: Durability
  public init(directory: String?, stage: String, shape: CacheShape, fingerprint: String, residentBytes: Int, durability: Durability = .process) {
   self.directory = directory; self.stage = stage; self.shape = shape; self.fingerprint = fingerprint; self.residentBytes = residentBytes; self.durability = durability }
}
public enum Residency: Equatable, Sendable { case ready; case needContext(from: Int) }
public struct SessionInfo: Sendable { public var name, request: String; public init(name: String, request: String) { self.name = name; self.request = request } }
public struct KVStatistics: Sendable { public var residentBytes = 0, budgetBytes = 0, residentSessions = 0, commits = 0, evictions = 0, reloads = 0; public var mapUsedRatio = 0.0 }
public final class KVStore {
  final class S { var rows: [UInt32] = []; var counts: [UInt8] = [] }
  public let shape: CacheShape
  public let arena: UnsafeMutablePointer<Float>
  public let stride: Int
  var next: UInt32 = 0
  var free: [UInt32] = []
  var sessions: [UInt64: S] = [:]
  public init(_ c: KVStoreConfiguration) throws { shape = c.shape; stride = (shape.rowFloats + 15) / 16 * 16
    let n = c.residentBytes
    arena = mmap(nil, n, PROT_READ|PROT_WRITE, Int32(MAP_PRIVATE)|Int32(MAP_ANONYMOUS)|Int32(MAP_NORESERVE), -1, 0)!.assumingMemoryBound(to: Float.self) }
  public func prepare(session: UInt64, position: Int, persist: Bool, info: SessionInfo) throws -> Residency {
    let s = sessions[session] ?? S(); sessions[session] = s
    if s.counts.count < position { return .needContext(from: s.counts.count) }
    while s.counts.count > position { let p = s.counts.count - 1; for e in 0..<Int(s.counts[p]) { free.append(s.rows[p * shape.maxEntries + e]) }; s.counts.removeLast(); s.rows.removeLast(shape.maxEntries) }
    return .ready }
  public func reserve(session: UInt64, positions: Int) -> Bool { true }
  public func endUse(session: UInt64) {}
  public func appendPosition(session: UInt64) -> Int { let s = sessions[session]!; s.counts.append(0); s.rows += [UInt32](repeating: 0, count: shape.maxEntries); return s.counts.count - 1 }
  public func appendEntry(session: UInt64, position: Int) -> UInt32 { let s = sessions[session]!; let r: UInt32; if let f = free.popLast() { r = f } else { r = next; next += 1 }
    s.rows[position * shape.maxEntries + Int(s.counts[position])] = r; s.counts[position] += 1; return r }
  public func length(session: UInt64) -> Int? { sessions[session]?.counts.count }
  public func visibleRows(session: UInt64, count: Int, deepest: Int, into rows: UnsafeMutablePointer<UInt32>) { let s = sessions[session]!; let k = shape.maxEntries
    for j in 0..<count { rows[j] = s.rows[j * k + min(deepest, Int(s.counts[j]) - 1)] } }
  public func commit(session: UInt64, positions: Range<Int>, completion: @escaping @Sendable (KVStoreError?) -> Void) { completion(nil) }
  public func release(session: UInt64) { if let s = sessions.removeValue(forKey: session) { for p in 0..<s.counts.count { for e in 0..<Int(s.counts[p]) { free.append(s.rows[p * shape.maxEntries + e]) } } } }
  public func drop(session: UInt64, completion: @escaping @Sendable (KVStoreError?) -> Void) { release(session: session); completion(nil) }
  public func statistics() -> KVStatistics { KVStatistics() }
  public func housekeeping() {}
  public func close() {}
}
