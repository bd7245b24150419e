import Dispatch
import Foundation
import Kernels

/// AdamW over the flat buffer of weights, shared out over the threads. Norms and biases do not decay.
final class Optimizer {
    private let layout: ParameterLayout
    private let configuration: TrainingConfiguration
    /// First and second moments, [layout.count] each.
    let first: UnsafeMutablePointer<Float>
    let second: UnsafeMutablePointer<Float>

    init(_ layout: ParameterLayout, _ configuration: TrainingConfiguration) throws {
        self.layout = layout
        self.configuration = configuration
        guard let first = anira_allocate(layout.count), let second = anira_allocate(layout.count) else {
            throw TrainingError.noMemory(layout.count * 8, for: "the optimiser's moments; make the model smaller")
        }
        (self.first, self.second) = (first, second)
    }

    deinit {
        anira_release(first, layout.count)
        anira_release(second, layout.count)
    }

    /// Norm of the gradient, summed tensor by tensor.
    func norm(_ gradients: UnsafePointer<Float>) -> Double {
        let parts = PartialSums(count: layout.tensors.count)
        let (tensors, floats) = (layout.tensors, Pointer(UnsafeMutablePointer(mutating: gradients)))
        DispatchQueue.concurrentPerform(iterations: tensors.count) { index in
            var total = 0.0
            for position in tensors[index].range {
                let value = Double(floats.floats[position])
                total += value * value
            }
            parts.store(total, at: index)
        }
        return parts.values.reduce(0, +).squareRoot()
    }

    /// One step, counted from 1. norm: of the gradients, which are clipped to the configured norm.
    func update(
        _ weights: UnsafeMutablePointer<Float>, _ gradients: UnsafePointer<Float>, norm: Double, step: Int,
        learningRate: Float
    ) {
        let c = configuration
        let clip = Float(min(1, Double(c.clip) / max(norm, 1e-12)))
        let correction1 = Float(1 - pow(Double(c.beta1), Double(step)))
        let correction2 = Float(1 - pow(Double(c.beta2), Double(step)))
        let (w, g) = (Pointer(weights), Pointer(UnsafeMutablePointer(mutating: gradients)))
        let (m, v, tensors) = (Pointer(first), Pointer(second), layout.tensors)
        DispatchQueue.concurrentPerform(iterations: tensors.count) { index in
            let (at, count) = (tensors[index].range.lowerBound, tensors[index].range.count)
            anira_adamw(
                w.floats + at, g.floats + at, m.floats + at, v.floats + at, count, clip, learningRate, c.beta1,
                c.beta2, c.epsilon, tensors[index].shape.count > 1 ? c.weightDecay : 0, correction1, correction2)
        }
    }
}

/// One sum per part, filled in by the threads.
private final class PartialSums: @unchecked Sendable {  // guarded by the lock
    private let lock = NSLock()
    private(set) var values: [Double]

    init(count: Int) { values = [Double](repeating: 0, count: count) }

    func store(_ value: Double, at index: Int) { lock.withLock { values[index] = value } }
}
