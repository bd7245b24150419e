import Foundation
import Model

/// What a run needs to go on as if it had never stopped: weights, moments, step (which is the position in the data and
/// in every stream of random numbers) and schedule, in one file that is replaced whole.
struct TrainingState {
    static let fileName = "state.safetensors"

    let step: Int
    let accuracy: Double
    let learnedAt: Int?

    static func save(_ state: TrainingState, _ lanes: Lanes, _ optimizer: Optimizer, in directory: String) throws {
        let count = lanes.layout.count
        func tensor(_ name: String, _ floats: UnsafePointer<Float>) -> SafetensorsWriter.Tensor {
            SafetensorsWriter.Tensor(name, shape: [count], values: UnsafeBufferPointer(start: floats, count: count))
        }
        var metadata = ["step": String(state.step), "accuracy": String(state.accuracy)]
        metadata["learned_at"] = state.learnedAt.map { String($0) }
        try SafetensorsWriter.write(
            [
                tensor("weights", lanes.weights), tensor("first_moment", optimizer.first),
                tensor("second_moment", optimizer.second),
            ], metadata: metadata, to: "\(directory)/\(fileName)")
    }

    /// Reads the state into weights and moments. Errors name the file.
    static func load(_ lanes: Lanes, _ optimizer: Optimizer, from directory: String) throws -> TrainingState {
        let path = "\(directory)/\(fileName)"
        let file = try SafetensorsFile(path: path)
        guard let step = file.metadata["step"].flatMap(Int.init), step >= 0,
            let accuracy = file.metadata["accuracy"].flatMap(Double.init)
        else { throw TrainingError("\(path) is damaged: it has no step; start again with another --out") }
        let shape = [lanes.layout.count]
        lanes.weights.update(from: try file.floats("weights", shape: shape), count: shape[0])
        optimizer.first.update(from: try file.floats("first_moment", shape: shape), count: shape[0])
        optimizer.second.update(from: try file.floats("second_moment", shape: shape), count: shape[0])
        return TrainingState(
            step: step, accuracy: accuracy, learnedAt: file.metadata["learned_at"].flatMap(Int.init))
    }
}
