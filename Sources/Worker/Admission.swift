import KVStore
import Messaging
import Model
import Proto

/// An item whose session is resident and whose rows have room.
public struct AdmittedItem {
    public var work: Work
    public let admitted: UInt64
    public var session: UInt64 { work.item.session }
    public var first: Int { Int(work.item.position) }
    public var count: Int { Int(work.item.count) }
    public var range: Range<Int> { first..<(first + count) }
}

/// The door that every stage shares: checks an item, makes its session resident, reserves its rows.
public struct Admission {
    public enum Answer {
        case admitted(AdmittedItem)
        /// No room until something running ends.
        case wait
        /// Answered with an outcome already.
        case answered
    }

    private let store: KVStore
    private let post: OutcomeSink
    private let limits: (positions: Int, width: Int)

    /// width: floats of a row's tensor, 0 when the stage takes none.
    public init(store: KVStore, positions: Int, width: Int, post: @escaping OutcomeSink) {
        self.store = store
        self.post = post
        limits = (positions, width)
    }

    /// busy: whether other items hold room that they will give back.
    public func answer(_ work: Work, busy: Bool) -> Answer {
        let item = work.item
        let (first, count) = (Int(item.position), Int(item.count))
        guard count > 0, first + count <= limits.positions, work.tensor?.count ?? 0 == count * limits.width * 4 else {
            return refuse(
                work, .internal, "malformed work: \(count) rows at \(first), \(work.tensor?.count ?? 0) bytes")
        }
        do {
            let info = SessionInfo(name: item.sessionName, request: item.requestID, number: item.request)
            let residency = try store.prepare(
                session: item.session, position: first, persist: item.persist, info: info, trusted: Int(item.trusted))
            switch residency {
            case .needContext(let from):
                var outcome = Self.reply(to: work)
                outcome.needContext.from = UInt32(from)
                post(Outcome(outcome))
                return .answered
            case .ready: break
            }
        } catch let error as KVStoreError where error.code == .full && busy {
            return .wait
        } catch {
            return refuse(work, ErrorCode(of: error), "\(error)")
        }
        if store.extend(session: item.session, by: count) {
            return .admitted(AdmittedItem(work: work, admitted: monotonicNanoseconds()))
        }
        if busy { return .wait }
        return refuse(
            work, .storeFull,
            "a session of \(first + count) positions does not fit the resident budget; raise --resident-mib")
    }

    public func refuse(_ work: Work, _ code: ErrorCode, _ message: String) -> Answer {
        post(Self.failure(of: work, code, message))
        return .answered
    }

    static func failure(of work: Work, _ code: ErrorCode, _ message: String) -> Outcome {
        var outcome = reply(to: work)
        outcome.failure.code = code.rawValue
        outcome.failure.message = message
        return Outcome(outcome)
    }

    /// An outcome addressed like the item, for one that is not computed.
    public static func reply(to work: Work) -> Anira_Worker_V1_ResultItem {
        .with {
            $0.request = work.item.request
            $0.attempt = work.item.attempt
            $0.position = work.item.position
            $0.count = work.item.count
            $0.sentNs = work.item.enqueuedNs
            $0.takenNs = work.taken
        }
    }
}

extension ErrorCode {
    /// How a request ends whose store failed so: only what makes room helps against a full one.
    init(of error: any Error) { self = (error as? KVStoreError)?.code == .full ? .storeFull : .internal }
}
