import Foundation
import KVStore
import Logging
import Messaging
import Model
import Proto
import Synchronization

/// Configuration of one worker process, checked where it is made.
public struct WorkerConfiguration: Sendable {
    public var stage: StageKind
    public var name: String
    /// The Router's worker endpoint.
    public var router: String
    /// Data folder; nil: memory only.
    public var data: String?
    public var durability = Durability.process
    public var residentMiB = 1024
    public var limits = RowLimits()
    /// How keys and values are held.
    public var kv = StoredType.f32
    /// Bytes of work the Router may have handed over and not got back.
    public var creditMiB = 64
    /// Where this worker listens for rows from others; nil: they come by way of the Router.
    public var inbox: String?
    /// What others connect to when that is not what is bound.
    public var inboxAddress: String?

    public init(stage: StageKind, name: String, router: String, data: String?) {
        self.stage = stage
        self.name = name
        self.router = router
        self.data = data
    }

    /// The store of this worker for a checkpoint.
    public func store(_ checkpoint: Checkpoint) -> KVStoreConfiguration {
        let c = checkpoint.configuration
        let shape =
            switch stage {
            case .decider: CacheShape(layers: c.numPreludeLayers, width: c.keyValueSize, maxEntries: 1)
            case .core: CacheShape(layers: c.numCoreLayers, width: c.keyValueSize, maxEntries: c.maxEntries)
            case .coda: CacheShape(layers: c.numCodaLayers, width: c.keyValueSize, maxEntries: 1)
            }
        var store = KVStoreConfiguration(
            directory: data.map { "\($0)/kv/\(stage.cacheName)/\(name)" }, stage: stage.cacheName, shape: shape,
            fingerprint: checkpoint.fingerprint, residentBytes: residentMiB << 20, durability: durability)
        store.storedType = kv
        store.damage = .isSetAside
        return store
    }
}

/// One stage worker: a compute thread that owns socket, stage and store, and a heartbeat thread beside it. Each
/// service's `build` makes its stage.
public final class WorkerService: Sendable {
    private let configuration: WorkerConfiguration
    private let outbox: Outbox
    private let stage: StageBox
    private let peers: PeersBox
    private let ready: Anira_Worker_V1_Ready
    private let context: Context
    private let log: Logger
    private let stopping = Atomic(false)

    /// Hands the stage over to the compute thread, which alone uses it afterwards.
    private struct StageBox: @unchecked Sendable { let stage: any Stage }
    private struct PeersBox: @unchecked Sendable { let peers: Peers }

    /// makeStage: builds the stage over its store, where its outcomes go, and where its rows go on.
    public init(
        _ configuration: WorkerConfiguration, checkpoint: Checkpoint, context: Context, log: Logger,
        makeStage: (KVStore, @escaping OutcomeSink, @escaping HandOver) throws -> any Stage
    ) throws {
        self.configuration = configuration
        self.context = context
        self.log = log
        let outbox = Outbox()
        self.outbox = outbox
        let store = try KVStore(configuration.store(checkpoint))
        let peers = Peers(context, log: log)
        self.peers = PeersBox(peers: peers)
        stage = StageBox(stage: try makeStage(store, { outbox.post($0) }, { peers.send($0, to: $1) }))
        ready = .with {
            $0.stage = configuration.stage.rawValue
            $0.name = configuration.name
            $0.incarnation = monotonicNanoseconds()
            $0.protocolVersion = workerProtocolVersion
            $0.fingerprint = configuration.kv.fingerprint(of: checkpoint.fingerprint)
            $0.creditBytes = UInt32(configuration.creditMiB << 20)
            $0.durability = configuration.data == nil ? "memory" : configuration.durability.rawValue
            $0.pid = getpid()
        }
    }

    /// Ends `run` after what was accepted is answered. Callable from any thread.
    public func stop() {
        stopping.store(true, ordering: .releasing)
        outbox.wakeup.signal()
    }

    /// Serves until `stop` on the calling thread, then terminates the context.
    public func run() throws {
        let pulse = Pulse()
        let heartStop = Wakeup()
        let ended = Ended()
        let heart = try startHeart(pulse, heartStop, ended)
        defer {
            ended.flag.store(true, ordering: .releasing)
            heartStop.signal()
            heart.wait()
            peers.peers.close()
            context.terminate()
            configuration.inbox.map(removeSocketFile)
        }
        var loop = try WorkerLoop(
            context: context, configuration: configuration, ready: ready, stage: stage.stage, peers: peers.peers,
            outbox: outbox, pulse: pulse, log: log)
        try loop.run(shouldStop: { stopping.load(ordering: .acquiring) })
    }

    private final class Ended: Sendable { let flag = Atomic(false) }

    /// Returns what is signalled once the heartbeat thread has closed its socket.
    private func startHeart(_ pulse: Pulse, _ stop: Wakeup, _ ended: Ended) throws -> DispatchSemaphore {
        let done = DispatchSemaphore(value: 0)
        let (context, ready, endpoint, log) = (context, ready, configuration.router, log)
        let thread = Thread {
            do {
                var heart = try Heart(
                    context: context, endpoint: endpoint, name: ready.name, incarnation: ready.incarnation,
                    pulse: pulse, stop: stop, log: log)
                heart.run(intervalMS: 250, ended: { ended.flag.load(ordering: .acquiring) })
            } catch {
                log.error("no heartbeats: \(error)")
            }
            done.signal()
        }
        thread.name = "heart"
        thread.start()
        return done
    }
}
