import Foundation
final class Ledger: Sendable {
 init(data: String, fingerprint: String, remembered: Int) throws {}
 func contents() throws -> LedgerContents { LedgerContents() }
 func put(session: String, _ r: SessionRecord) throws {}
 func remove(session: String) throws {}
 func put(result: ResultRecord) throws {}
 func close() {}
}
