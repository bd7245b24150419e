import Foundation
import Kernels
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
        let tensors = parts(lanes, optimizer).map {
            SafetensorsWriter.Tensor($0, shape: [count], values: UnsafeBufferPointer(start: $1, count: count))
        }
        var metadata = ["step": String(state.step), "accuracy": String(state.accuracy)]
        metadata["learned_at"] = state.learnedAt.map { String($0) }
        metadata["crc32c"] = checksum(metadata, lanes, optimizer)
        try SafetensorsWriter.write(tensors, metadata: metadata, to: "\(directory)/\(fileName)")
    }

    private static func parts(_ lanes: Lanes, _ optimizer: Optimizer) -> [(String, UnsafeMutablePointer<Float>)] {
        [("weights", lanes.weights), ("first_moment", optimizer.first), ("second_moment", optimizer.second)]
    }

    /// Of step and schedule as they are stored, and all values.
    private static func checksum(_ metadata: [String: String], _ lanes: Lanes, _ optimizer: Optimizer) -> String {
        let words = ["step", "accuracy", "learned_at"].map { metadata[$0] ?? "" }.joined(separator: " ")
        var sum = Array(words.utf8).withUnsafeBytes { anira_crc32c(0, $0.baseAddress, $0.count) }
        for (_, values) in parts(lanes, optimizer) { sum = anira_crc32c(sum, values, lanes.layout.count * 4) }
        return String(sum, radix: 16)
    }

    /// Reads the state into weights and moments. Errors name the file.
    static func load(_ lanes: Lanes, _ optimizer: Optimizer, from directory: String) throws -> TrainingState {
        let path = "\(directory)/\(fileName)"
        guard FileManager.default.fileExists(atPath: path) else {
            throw TrainingError(
                "\(directory) has no \(fileName) to go on from: start the run again, or another one --from its model")
        }
        let file = try SafetensorsFile(path: path)
        guard let step = file.metadata["step"].flatMap(Int.init), step >= 0,
            let accuracy = file.metadata["accuracy"].flatMap(Double.init)
        else { throw TrainingError("\(path) is damaged: it has no step; start again with another --out") }
        let count = lanes.layout.count
        for (name, values) in parts(lanes, optimizer) {
            values.update(from: try file.floats(name, shape: [count]), count: count)
        }
        guard file.metadata["crc32c"] == checksum(file.metadata, lanes, optimizer) else {
            throw TrainingError(
                "\(path) is damaged: its checksum does not match; start another run --from the model beside it")
        }
        return TrainingState(
            step: step, accuracy: accuracy, learnedAt: file.metadata["learned_at"].flatMap(Int.init))
    }
}
