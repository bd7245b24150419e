import Foundation
import Synchronization

/// An exclusive claim on a path by this process, held until it ends: an ipc path, a data folder and an environment
/// have no owner of their own, and a second process would silently take them over.
public final class OwnerLock: Sendable {
    private let path: String
    private let descriptor: Int32
    private let released = Atomic(false)

    /// Throws naming the owner's pid when another process holds `path` for a second more: one that was killed may be about
    /// to go. what, instead: named in that error, and what to choose for it.
    public init(path: String, what: String, instead: String) throws {
        self.path = path
        descriptor = try Self.lock(path, what, instead)
        ftruncate(descriptor, 0)
        let text = Array("\(getpid())\n".utf8)
        _ = text.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, 0) }
    }

    /// A locked descriptor of the file that `path` names: a release may unlink it between our open and our lock.
    private static func lock(_ path: String, _ what: String, _ instead: String) throws -> Int32 {
        var tries = 100
        while true {
            guard let descriptor = try lockOnce(path, what, instead, isLast: tries == 0) else {
                tries -= 1
                usleep(10_000)
                continue
            }
            var held = stat()
            var named = stat()
            if fstat(descriptor, &held) == 0, stat(path, &named) == 0, held.st_ino == named.st_ino { return descriptor }
            close(descriptor)
        }
    }

    /// nil: another process holds it.
    private static func lockOnce(_ path: String, _ what: String, _ instead: String, isLast: Bool) throws
        -> Int32?
    {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw KVStoreError(.system, "open the lock file", path: path, result: errno) }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            var buffer = [UInt8](repeating: 0, count: 32)
            let count = max(0, read(descriptor, &buffer, buffer.count))
            close(descriptor)
            guard isLast else { return nil }
            let owner = String(decoding: buffer.prefix(count), as: UTF8.self)
                .trimmingCharacters(in: .whitespacesAndNewlines)
            throw KVStoreError(
                .owned, "use", path: what,
                advice: "process \(owner) is running on it: stop that one or choose another \(instead)")
        }
        return descriptor
    }

    /// Gives the path up and removes the lock file; so does the last reference when it goes.
    public func release() {
        guard released.compareExchange(expected: false, desired: true, ordering: .relaxed).exchanged else { return }
        unlink(path)
        close(descriptor)
    }

    deinit { release() }
}
