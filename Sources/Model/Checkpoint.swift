import Foundation
import Kernels

/// A checkpoint directory: configuration, mapped weights and vocabulary. Parts load only what they read.
public final class Checkpoint: Sendable {
    public let directory: String
    public let configuration: ModelConfiguration
    /// How products hold their weights.
    public let weights: WeightFormat
    /// Identifies configuration and weights: 8 hex digits of each one's CRC-32C, and the format unless it is f32.
    public let fingerprint: String
    public let vocabulary: Vocabulary?
    private let files: [SafetensorsFile]
    private let location: [String: Int]

    /// The folder's last path component.
    public var name: String { URL(fileURLWithPath: directory).standardizedFileURL.lastPathComponent }

    public init(directory: String, weights format: WeightFormat = .f32) throws {
        weights = format
        self.directory = directory
        let config = try Self.read("\(directory)/config.json")
        configuration = try ModelConfiguration(json: config, path: "\(directory)/config.json")
        files = try Self.weightFiles(in: directory).map { try SafetensorsFile(path: "\(directory)/\($0)") }
        var location: [String: Int] = [:]
        for (index, file) in files.enumerated() {
            for name in file.entries.keys { location[name] = index }
        }
        self.location = location
        var weights: UInt32 = 0
        for file in files { weights = anira_crc32c(weights, file.bytes.baseAddress, file.bytes.count) }
        let shape = config.withUnsafeBytes { anira_crc32c(0, $0.baseAddress, $0.count) }
        fingerprint = Self.hex(shape) + "-" + Self.hex(weights) + format.fingerprint
        vocabulary = try Vocabulary.load(from: directory, size: configuration.vocabSize)
    }

    private static func hex(_ value: UInt32) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    private static func read(_ path: String) throws -> Data {
        do {
            return try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw ModelError(
                .unreadable, "cannot read \(path); a checkpoint folder holds config.json and model.safetensors")
        }
    }

    private static func weightFiles(in directory: String) throws -> [String] {
        let indexPath = "\(directory)/model.safetensors.index.json"
        guard FileManager.default.fileExists(atPath: indexPath) else { return ["model.safetensors"] }
        struct Index: Decodable {
            let weightMap: [String: String]
            enum CodingKeys: String, CodingKey { case weightMap = "weight_map" }
        }
        do {
            let index = try JSONDecoder().decode(Index.self, from: read(indexPath))
            let names = Set(index.weightMap.values).sorted()
            guard !names.isEmpty, names.allSatisfy({ !$0.contains("/") }) else {
                throw ModelError(.damaged, "\(indexPath) is damaged: weight_map must name files beside it")
            }
            return names
        } catch is DecodingError {
            throw ModelError(.damaged, "\(indexPath) is damaged: it has no weight_map of tensor to file")
        }
    }

    /// A tensor as float32, checked for presence, shape and finite values.
    func floats(_ name: String, _ shape: Int...) throws -> [Float] { try floats(name, shape: shape) }

    /// The same, for callers that have the shape as an array.
    public func floats(_ name: String, shape: [Int]) throws -> [Float] {
        guard let index = location[name] else {
            throw ModelError(.damaged, "\(directory): tensor '\(name)' \(shape) is missing")
        }
        return try files[index].floats(name, shape: shape)
    }

    /// A weight matrix [outputs, inputs], packed for the kernels.
    func matrix(_ name: String, outputs: Int, inputs: Int) throws -> PackedMatrix {
        PackedMatrix(try floats(name, outputs, inputs), outputs: outputs, inputs: inputs, format: weights)
    }
}
