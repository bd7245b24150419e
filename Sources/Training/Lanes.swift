import Dispatch
import Foundation
import Kernels
import Model

/// The threads that share the work of a step. Every lane takes whole sequences, runs them in micro-batches through its
/// own network and sums its own gradients; those are then added in the order of the lanes, so that a given number of
/// lanes always gives the same bits.
public final class Lanes {
    public let layout: ParameterLayout
    /// Shared by all lanes, [layout.count].
    public let weights: UnsafeMutablePointer<Float>
    /// Sum of the last step, [layout.count].
    public var gradients: UnsafeMutablePointer<Float> { networks[0].gradients }
    private let networks: [Network]
    private let microBatch: Int

    /// - Parameters:
    ///   - weights: initial values in the order of the layout.
    ///   - count: number of lanes, at least 1.
    ///   - microBatch: rows (tokens) that a lane has in memory at once, at least.
    ///   - longest: most tokens of one sequence.
    public init(
        _ configuration: ModelConfiguration, weights initial: [Float], count: Int, microBatch: Int, longest: Int
    ) throws {
        Products.useOneThread()
        let layout = ParameterLayout(configuration)
        precondition(initial.count == layout.count)
        self.layout = layout
        self.microBatch = microBatch
        guard let weights = anira_allocate(layout.count) else {
            throw TrainingError.noMemory(layout.count * 4, for: "weights; make the model smaller")
        }
        weights.update(from: initial, count: layout.count)
        self.weights = weights
        let rope = RotaryTable(configuration)
        networks = try (0..<count).map { _ in
            try Network(layout, weights: weights, rope: rope, capacity: microBatch + longest, longest: longest)
        }
    }

    deinit { anira_release(weights, layout.count) }

    /// One pass over a whole step, given as sequences (batches of one each); results in their order. With `learning`,
    /// `gradients` holds the sum afterwards.
    public func run(_ sequences: [Batch], _ objective: Objective, depth: DepthChoice, learning: Bool) -> [PassResult] {
        let shares = share(sequences)
        let results = Results(count: shares.count)
        DispatchQueue.concurrentPerform(iterations: shares.count) { lane in
            results.store(self.run(lane, sequences, shares[lane], objective, depth, learning), at: lane)
        }
        if learning {
            for network in networks[1...] { addGradients(of: network) }
        }
        var ordered = [PassResult](repeating: PassResult(), count: sequences.count)
        for (share, found) in zip(shares, results.values) {
            for (index, result) in zip(share, found) { ordered[index] = result }
        }
        return ordered
    }

    /// Deals the sequences, longest first, to the lane with the fewest tokens.
    private func share(_ sequences: [Batch]) -> [[Int]] {
        let order = sequences.indices.sorted {
            (sequences[$1].rows, $0) < (sequences[$0].rows, $1)
        }
        var shares = [[Int]](repeating: [], count: networks.count)
        var load = [Int](repeating: 0, count: networks.count)
        for index in order {
            let lane = load.indices.min { (load[$0], $0) < (load[$1], $1) }!
            shares[lane].append(index)
            load[lane] += sequences[index].rows
        }
        return shares
    }

    private func run(
        _ lane: Int, _ sequences: [Batch], _ share: [Int], _ objective: Objective, _ depth: DepthChoice,
        _ learning: Bool
    ) -> [PassResult] {
        let network = networks[lane]
        if learning { network.gradients.update(repeating: 0, count: layout.count) }
        var results: [PassResult] = []
        var next = 0
        while next < share.count {
            var batch = Batch()
            while next < share.count, batch.rows == 0 || batch.rows + sequences[share[next]].rows <= microBatch {
                batch.append(sequences[share[next]])
                next += 1
            }
            results += network.run(batch, objective, depth: depth, learning: learning).split(batch)
        }
        return results
    }

    private func addGradients(of network: Network) {
        let count = layout.count
        let parts = networks.count
        let (sum, added) = (Pointer(gradients), Pointer(network.gradients))
        DispatchQueue.concurrentPerform(iterations: parts) { part in
            let range = (count * part / parts)..<(count * (part + 1) / parts)
            anira_add(added.floats + range.lowerBound, Int32(range.count), sum.floats + range.lowerBound)
        }
    }
}

// Lanes is handed to the threads of one `run`, each of which touches its own network only; weights are not written
// meanwhile.
extension Lanes: @unchecked Sendable {}

/// A pointer for a thread that touches its own part of what lies there.
struct Pointer: @unchecked Sendable {  // whoever makes one sees to it that threads touch disjoint parts
    let floats: UnsafeMutablePointer<Float>

    init(_ floats: UnsafeMutablePointer<Float>) { self.floats = floats }
}

/// What the lanes found, each at its place.
private final class Results: @unchecked Sendable {  // guarded by the lock
    private let lock = NSLock()
    private(set) var values: [[PassResult]]

    init(count: Int) { values = [[PassResult]](repeating: [], count: count) }

    func store(_ results: [PassResult], at lane: Int) { lock.withLock { values[lane] = results } }
}
