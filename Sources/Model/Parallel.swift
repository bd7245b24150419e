import Kernels

/// body(part) for each part, on the kernels' threads; back when all are done. Parts must not touch each other's data.
func parallel(_ parts: Int, _ body: (Int) -> Void) {
    if parts == 1 { return body(0) }  // without a closure on the heap
    withoutActuallyEscaping(body) { body in
        var job = body
        withUnsafeMutablePointer(to: &job) { job in
            anira_parallel(
                Int32(parts),
                { context, part in
                    guard let context else { return }
                    context.assumingMemoryBound(to: ((Int) -> Void).self).pointee(Int(part))
                }, job)
        }
    }
}
