import Foundation
import Proto
import Testing

@testable import Worker

@Suite("The rest of an item's way")
struct WaysTests {
    private func item(onward: Data) -> Anira_Worker_V1_WorkItem {
        .with { ($0.request, $0.onward) = (7, onward) }
    }

    @Test("is what the Router wrote, and nothing where it wrote nothing")
    func decodes() throws {
        var ways = Ways()
        let first = Anira_Worker_V1_Onward.with { $0.core.worker = "core#1" }
        let second = Anira_Worker_V1_Onward.with { $0.core.worker = "core#2" }
        for onward in [first, first, second, first] {
            #expect(try ways.onward(item(onward: onward.serializedData())) == onward)
        }
        #expect(try ways.onward(item(onward: Data())) == Anira_Worker_V1_Onward())
    }

    @Test("is refused where its bytes are none, every time")
    func refuses() {
        var ways = Ways()
        for _ in 0..<2 {
            #expect(throws: (any Error).self) { try ways.onward(item(onward: Data([0x0a, 0xff]))) }
        }
    }
}
