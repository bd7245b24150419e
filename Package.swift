// swift-tools-version: 6.2
import PackageDescription

// The tree is the diagram: every target is a folder in Sources/ and a box in docs/architecture.md.
// Dependencies point down: system libraries and kernels, then Model / KVStore / Messaging, then the services.

let kernels: [CSetting] = [
    .unsafeFlags(["-O3", "-falign-loops=64", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"])
]
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")
let stage: [Target.Dependency] = ["KVStore", "Kernels", "Messaging", "Model", "Proto", "Worker", logging]
let collections = Target.Dependency.product(name: "DequeModule", package: "swift-collections")

let package = Package(
    name: "Anira",
    products: [.executable(name: "anira", targets: ["anira"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        .systemLibrary(name: "CZeroMQ", providers: [.apt(["libzmq3-dev"])]),
        .systemLibrary(name: "CLMDB", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(name: "COpenBLAS", providers: [.apt(["libopenblas-dev"])]),
        .target(name: "Kernels", cSettings: kernels),
        .target(name: "Proto", dependencies: [protobuf], exclude: ["anira.proto", "worker.proto"]),
        .target(name: "Messaging", dependencies: ["CZeroMQ", "Proto", collections, logging]),
        .target(name: "Model", dependencies: ["Kernels"]),
        .target(name: "Tasks"),
        .target(name: "Analysis", dependencies: ["Tasks"]),
        .target(name: "Training", dependencies: ["Analysis", "COpenBLAS", "Kernels", "Model", "Tasks"]),
        .target(name: "KVStore", dependencies: ["CLMDB", "Kernels"]),
        .target(
            name: "Worker",
            dependencies: [
                "KVStore", "Kernels", "Messaging", "Model", "Proto", collections, logging,
                .product(name: "HeapModule", package: "swift-collections"),
            ]),
        .target(name: "DeciderService", dependencies: stage),
        .target(name: "RecurrentCoreService", dependencies: stage),
        .target(name: "CodaService", dependencies: stage),
        .target(
            name: "Router", dependencies: ["KVStore", "Messaging", "Model", "Proto", collections, logging, protobuf]),
        .target(
            name: "Engine",
            dependencies: [
                "CodaService", "DeciderService", "KVStore", "Messaging", "Model", "Proto", "RecurrentCoreService",
                "Router", "Worker",
            ]),
        .target(name: "Client", dependencies: ["Messaging", "Proto"]),
        .target(name: "TestKit", dependencies: ["Model", "Proto"]),
        .executableTarget(
            name: "anira",
            dependencies: [
                "CLMDB", "COpenBLAS", "Client", "CodaService", "DeciderService", "Engine", "KVStore", "Kernels",
                "Messaging",
                "Analysis", "Model", "Proto", "RecurrentCoreService", "Router", "Tasks", "Training", "Worker", logging,
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ]),
        .testTarget(name: "KernelsTests", dependencies: ["Kernels", "Messaging", "TestKit"]),
        .testTarget(name: "KVStoreTests", dependencies: ["KVStore", "Kernels", "TestKit"]),
        .testTarget(name: "ProtoTests", dependencies: ["Messaging", "Proto", "Router", "TestKit", protobuf]),
        .testTarget(
            name: "RouterTests",
            dependencies: ["KVStore", "Messaging", "Model", "Proto", "Router", "TestKit", logging, protobuf]),
        .testTarget(
            name: "TrainingTests",
            dependencies: ["Analysis", "Engine", "Kernels", "Model", "Proto", "Tasks", "TestKit", "Training"]),
        .testTarget(name: "TasksTests", dependencies: ["Tasks"]),
        .testTarget(
            name: "WorkerTests", dependencies: ["KVStore", "Messaging", "Proto", "TestKit", "Worker", logging]),
        .testTarget(
            name: "EngineTests",
            dependencies: [
                "CodaService", "Engine", "KVStore", "Messaging", "Model", "Proto", "RecurrentCoreService", "TestKit",
                "Worker",
            ]),
    ],
    swiftLanguageModes: [.v6]
)

for target in package.targets where target.type != .system && target.name != "Kernels" {
    target.swiftSettings = [
        .unsafeFlags(["-warnings-as-errors"]), .enableUpcomingFeature("ExistentialAny"),
        // Tests check that no access to memory overlaps another; it is a tenth of what a release computes beside products.
        .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
    ]
}
