import Foundation

/// What an environment holds and which model it belongs to: the `meta` database, readable as text in a dump.
enum Layout {
    static let databases = ["meta", "sessions", "kv"]
    static let schema = "2"
    /// The same without ends of records in keys: read as it is, and written in the present schema from then on.
    private static let earlierSchema = "1"

    static func canRead(schema: String?) -> Bool { schema == self.schema || schema == earlierSchema }

    /// Writes `meta` into a new environment; refuses one of another schema, model or shape, naming both values. One of another
    /// model that holds nothing was made by a service that was started with wrong options, and becomes this one's.
    static func claim(_ environment: Environment, _ c: KVStoreConfiguration) throws {
        let values = [
            ("schema", schema), ("fingerprint", c.fingerprint), ("stage", c.stage), ("layers", "\(c.shape.layers)"),
            ("width", "\(c.shape.width)"), ("entries", "\(c.shape.maxEntries)"), ("dtype", c.storedType.rawValue),
        ]
        let (isNew, isEmpty) = try environment.read { txn in
            (try txn.count("meta") == 0, try txn.count("kv") == 0 && txn.count("sessions") == 0)
        }
        if isNew {
            return try environment.write { txn in
                for (key, value) in values { try txn.put("meta", Array(key.utf8), Array(value.utf8)) }
            }
        }
        for (key, expected) in values where key != "dtype" {
            let found = try value(key, in: environment)
            let isHarmless = key == "schema" ? canRead(schema: found) : key == "fingerprint" && isEmpty
            guard found == expected || isHarmless else {
                throw KVStoreError(
                    .foreign, "use", path: environment.path,
                    advice: "its \(key) is \(found ?? "missing"), this service's is \(expected): "
                        + "choose another --data folder, or the model and --weights that wrote it")
            }
        }
        // Older records may be of another type: each says its own.
        try note("fingerprint", c.fingerprint, in: environment)
        try note("dtype", c.storedType.rawValue, in: environment)
        try note("schema", schema, in: environment)
    }

    private static func note(_ key: String, _ new: String, in environment: Environment) throws {
        guard try value(key, in: environment) != new else { return }
        try environment.write { try $0.put("meta", Array(key.utf8), Array(new.utf8)) }
    }

    static func value(_ key: String, in environment: Environment) throws -> String? {
        try environment.read { try $0.get("meta", Array(key.utf8)) { String(decoding: $0, as: UTF8.self) } }
    }
}
