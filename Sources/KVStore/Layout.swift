import Foundation

/// What an environment holds and which model it belongs to: the `meta` database, readable as text in a dump.
enum Layout {
    static let databases = ["meta", "sessions", "kv"]
    static let schema = "2"
    /// The same without ends of records in keys: read as it is, and written in the present schema from then on.
    private static let earlierSchema = "1"

    static func canRead(schema: String?) -> Bool { schema == self.schema || schema == earlierSchema }

    /// Writes `meta` into an environment that holds nothing: it is new, or was made by a service that was started with wrong
    /// options. Refuses records of another schema, model or shape, naming both values.
    static func claim(_ environment: Environment, _ c: KVStoreConfiguration) throws {
        let values = [
            ("schema", schema), ("fingerprint", c.fingerprint), ("stage", c.stage), ("layers", "\(c.shape.layers)"),
            ("width", "\(c.shape.width)"), ("entries", "\(c.shape.maxEntries)"), ("dtype", c.storedType.rawValue),
        ]
        let isEmpty = try environment.read { try $0.count("kv") == 0 && $0.count("sessions") == 0 }
        var changed = false
        for (key, expected) in values {
            let found = try value(key, in: environment)
            if found == expected { continue }
            changed = true
            let isHarmless =
                switch key {
                case "dtype": true  // each record says its own
                case "schema": canRead(schema: found) || (found == nil && isEmpty)
                default: isEmpty
                }
            guard isHarmless else {
                throw KVStoreError(
                    .foreign, "use", path: environment.path,
                    advice: "its \(key) is \(found ?? "missing"), this service's is \(expected): "
                        + "choose another --data folder, or the model and --weights that wrote it")
            }
        }
        guard changed else { return }
        try environment.write { txn in
            for (key, value) in values { try txn.put("meta", Array(key.utf8), Array(value.utf8)) }
        }
    }

    static func value(_ key: String, in environment: Environment) throws -> String? {
        try environment.read { try $0.get("meta", Array(key.utf8)) { String(decoding: $0, as: UTF8.self) } }
    }
}
