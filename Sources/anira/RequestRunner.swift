import Client
import Engine
import Foundation
import Messaging
import Model
import Proto

/// Runs many requests, a few at a time, in this process or through the services.
final class RequestRunner {
    /// How many are under way together.
    private static let together = 32
    private let local: (engine: LocalEngine, checkpoint: Checkpoint)?
    private let endpoint: String?
    private let timeout: Double

    /// One of model (a checkpoint folder) and endpoint.
    init(model: String?, compute: ComputeOptions, endpoint: String?, timeout: Double) throws {
        self.endpoint = endpoint
        self.timeout = timeout
        local = try model.map { directory in
            let checkpoint = try compute.checkpoint(directory)
            return (try LocalEngine(checkpoint, kv: compute.kv, residentMiB: 256), checkpoint)
        }
    }

    /// What is being served.
    func model() throws -> Anira_V1_Model {
        if let local {
            return .with {
                $0.name = local.checkpoint.name
                $0.fingerprint = local.checkpoint.fingerprint
                $0.maxDepth = Int32(local.checkpoint.configuration.maxDepth)
                $0.vocabSize = Int32(local.checkpoint.configuration.vocabSize)
            }
        }
        let client = try Client(endpoint: endpoint ?? "", context: Context())
        var request = ClientRequest()
        request.id = newRequestID("models")
        request.models = Anira_V1_Models()
        let reply = try client.run(request, seconds: timeout).reply
        guard let model = reply.models.models.first else {
            throw RequestFailure(code: reply.error.code, message: reply.error.message)
        }
        return model
    }

    /// onReply: index of the request, its last reply with tensors. An error reply throws.
    func run(
        _ requests: [ClientRequest], onReply: (Int, ClientReply, [Frame]) throws -> Void
    ) throws {
        if let engine = local?.engine {
            for start in stride(from: 0, to: requests.count, by: Self.together) {
                let part = Array(requests[start..<min(start + Self.together, requests.count)])
                for (offset, last) in engine.run(part).enumerated() {
                    try deliver(start + offset, last.reply, last.tensors, onReply)
                }
            }
        } else {
            let client = try Client(endpoint: endpoint ?? "", context: Context())
            try cancelling(client) { try ask(client, requests, onReply) }
        }
    }

    private func ask(
        _ client: Client, _ requests: [ClientRequest], _ onReply: (Int, ClientReply, [Frame]) throws -> Void
    ) throws {
        let places = Dictionary(uniqueKeysWithValues: requests.enumerated().map { ($1.id, $0) })
        var (sent, done) = (0, 0)
        while done < requests.count {
            while sent < requests.count, sent - done < Self.together {
                try client.send(requests[sent])
                sent += 1
            }
            let (reply, tensors) = try client.receive(seconds: timeout)
            guard reply.isLast, let index = places[reply.id] else { continue }
            done += 1
            try deliver(index, reply, tensors, onReply)
        }
    }

    private func deliver(
        _ index: Int, _ reply: ClientReply, _ tensors: [Frame], _ onReply: (Int, ClientReply, [Frame]) throws -> Void
    ) throws {
        try reply.check()
        try onReply(index, reply, tensors)
    }
}
