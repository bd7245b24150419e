import Foundation
import Proto

/// The decoded `onward` of the last requests: the same from one token to the next, and most of what there is to decode.
struct Ways {
    private var known: [UInt64: (bytes: Data, onward: Anira_Worker_V1_Onward)] = [:]

    /// Empty where the item has none. Throws where its bytes are no `Onward`.
    mutating func onward(_ item: Anira_Worker_V1_WorkItem) throws -> Anira_Worker_V1_Onward {
        guard !item.onward.isEmpty else { return .init() }
        if let way = known[item.request], way.bytes == item.onward { return way.onward }
        let onward = try Anira_Worker_V1_Onward(serializedBytes: item.onward)
        if known.count >= 1024 { known.removeAll() }
        known[item.request] = (item.onward, onward)
        return onward
    }
}
