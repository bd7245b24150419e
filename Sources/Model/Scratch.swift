import Foundation
import Kernels

/// A buffer that grows to the largest batch seen and is then reused: no allocation per token.
final class Scratch {
    private var memory: UnsafeMutablePointer<Float>?
    private var capacity = 0

    /// At least `count` floats; contents are kept only while the buffer does not grow.
    func floats(_ count: Int) -> UnsafeMutablePointer<Float> {
        if let memory, count <= capacity { return memory }
        if let memory { anira_release(memory, capacity) }
        capacity = max(count, 2 * capacity)
        guard let grown = anira_allocate(capacity) else { fatalError("out of memory for \(capacity) floats") }
        memory = grown
        return grown
    }

    deinit { if let memory { anira_release(memory, capacity) } }
}

func power(_ base: Float, _ exponent: Float) -> Float { powf(base, exponent) }
func cosineOf(_ angle: Float) -> Float { cosf(angle) }
func sineOf(_ angle: Float) -> Float { sinf(angle) }
