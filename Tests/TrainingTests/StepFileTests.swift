import Model
import TestKit
import Testing
import Training

@Suite struct StepFileTests {
    @Test(arguments: ["early-1x", "online-1x"], [1, 2])
    func `losses depths and every gradient agree with the independent implementation`(name: String, threads: Int)
        throws
    {
        let golden = try Golden(name)
        let path = Golden.repository.appendingPathComponent("Tests/Golden/\(name)/train_step.safetensors").path
        let found = try StepFile(path: path, for: golden.checkpoint).verify(golden.checkpoint, threads: threads)
        #expect(found.depthsDiffering == 0)
        #expect(found.lossErrors.ce < StepFile.tolerance && found.lossErrors.kl < StepFile.tolerance)
        #expect(found.distributionError < 1e-5)
        for gradient in found.gradients {
            #expect(gradient.error < StepFile.tolerance, "\(gradient.name)")
        }
    }
}
