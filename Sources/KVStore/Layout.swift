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
        let changed = try environment.read { txn in
            let isEmpty = try txn.count("kv") == 0 && txn.count("sessions") == 0
            var changed = false
            for (key, expected) in values {
                let found = try txn.get("meta", Array(key.utf8)) { String(decoding: $0, as: UTF8.self) }
                if found == expected { continue }
                if !isEmpty || key == "schema" && found != nil { try refuse(key, found, expected, environment.path) }
                changed = true
            }
            return changed
        }
        guard changed else { return }
        try environment.write { txn in
            for (key, value) in values { try txn.put("meta", Array(key.utf8), Array(value.utf8)) }
        }
    }

    /// Throws where the records do not go with a value.
    private static func refuse(_ key: String, _ found: String?, _ expected: String, _ path: String) throws {
        guard let found else {
            throw KVStoreError(
                .damaged, "use", path: path, advice: "its \(key) is missing: restore a copy or remove it")
        }
        // Each record says its own type.
        guard key == "dtype" || key == "schema" && canRead(schema: found) else {
            throw KVStoreError(
                .foreign, "use", path: path,
                advice: "its \(key) is \(found), this service's is \(expected): "
                    + "choose another --data folder, or the model and --weights that wrote it")
        }
    }
}
