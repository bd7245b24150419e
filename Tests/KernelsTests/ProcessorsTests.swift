import Foundation
import Kernels
import Messaging
import Testing

/// Pages that other processes would write: their slots are written here.
@Suite(.serialized) struct ProcessorsTests {
    private final class Page {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("anira-\(UUID().uuidString)").path
        let memory: UnsafeMutableRawPointer

        init(processors: Int32) throws {
            try #require(anira_share_processors(path, processors) == 0)
            let file = open(path, O_RDWR)
            memory = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
            close(file)
        }

        deinit {
            munmap(memory, 4096)
            unlink(path)
        }

        var claims: UInt32 {
            get { memory.load(as: UInt32.self) }
            set { memory.storeBytes(of: newValue, as: UInt32.self) }
        }

        /// Another process says that it computes with `threads`, so many nanoseconds ago.
        func say(slot: Int, threads: Int32, ago: UInt64 = 0) {
            let place = memory + 64 * (1 + slot)
            place.storeBytes(of: monotonicNanoseconds() - ago, as: UInt64.self)
            place.storeBytes(of: threads, toByteOffset: 8, as: Int32.self)
        }
    }

    @Test func `what others compute on is not left, what this process does is`() throws {
        let page = try Page(processors: 4)
        #expect(page.claims == 1)
        anira_take_processors(3)
        #expect(anira_processors_left() == 4)
        anira_take_processors(0)
        page.claims = 3
        page.say(slot: 1, threads: 1)
        #expect(anira_processors_left() == 3)
        page.say(slot: 2, threads: 2)
        #expect(anira_processors_left() == 1)
        page.say(slot: 1, threads: 4)
        #expect(anira_processors_left() == 1, "one is for the caller, whatever others say")
        page.say(slot: 1, threads: 0)
        page.say(slot: 2, threads: 0)
        #expect(anira_processors_left() == 4)
    }

    @Test func `who says nothing for a second, or what cannot be, does not count`() throws {
        let page = try Page(processors: 2)
        page.claims = 2
        page.say(slot: 1, threads: 1, ago: 2_000_000_000)
        #expect(anira_processors_left() == 2)
        for threads: Int32 in [-1, 3, .min, .max] {
            page.say(slot: 1, threads: threads)
            #expect(anira_processors_left() == 2)
        }
        page.claims = .max
        page.say(slot: 1, threads: 1)
        #expect(anira_processors_left() == 1)
    }

    @Test func `products stay on the caller's thread while nothing is left`() throws {
        let page = try Page(processors: 2)
        page.claims = 2
        page.say(slot: 1, threads: 2)
        anira_set_threads(2)
        defer { anira_set_threads(1) }
        #expect(anira_threads() == 1)
        var caller = pthread_self()
        anira_parallel(
            64,
            { context, _ in
                let caller = context!.load(as: pthread_t.self)
                #expect(pthread_equal(caller, pthread_self()) != 0)
            }, &caller)
    }

    @Test func `a file that cannot be made is an error with its number`() {
        #expect(anira_share_processors("/proc/nothing/processors", 2) == ENOENT)
    }
}
