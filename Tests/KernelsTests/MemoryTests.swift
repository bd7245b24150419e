import Kernels
import Testing

@Suite struct MemoryTests {
    @Test(arguments: [0, 1, 17, 262_143, 262_144, 1_000_001])
    func `memory is zeroed and aligned`(count: Int) throws {
        let memory = try #require(anira_allocate(count))
        defer { anira_release(memory, count) }
        let alignment = count * 4 >= 1 << 20 ? 2 << 20 : 64
        #expect(UInt(bitPattern: memory) % UInt(alignment) == 0)
        #expect(stride(from: 0, to: count, by: 97).allSatisfy { memory[$0] == 0 })
        if count > 0 { memory[count - 1] = 1 }
    }

    @Test func `memory can be released when there is none`() { anira_release(nil, 5) }

    @Test func `a panel holds sixteen outputs, padded with zeros`() {
        let packed = Packed((0..<34).map(Float.init), n: 17, k: 2).floats
        #expect(packed.count == 64)
        #expect(packed[0..<4] == [0, 2, 4, 6])
        #expect(packed[16..<20] == [1, 3, 5, 7])
        #expect(packed[32] == 32 && packed[48] == 33)
        #expect(packed[33..<48].allSatisfy { $0 == 0 })
    }

    @Test func `the panels of a gate come before those of its up`() {
        let (gate, up) = (values(20 * 3, seed: 1), values(20 * 3, seed: 2))
        let pair = Packed(gate: gate, up: up, n: 20, k: 3).floats
        let (g, u) = (Packed(gate, n: 20, k: 3).floats, Packed(up, n: 20, k: 3).floats)
        #expect(pair == g + u)
    }
}
