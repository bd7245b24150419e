#!/bin/sh
# Regenerates Sources/Proto/*.pb.swift from the .proto files (make proto). The generator is built from the
# swift-protobuf checkout that the package already uses; protoc comes from Debian's protobuf-compiler.
set -eu
cd "$(dirname "$0")/.."
swift package resolve
swift build --package-path .build/checkouts/swift-protobuf --scratch-path .build-protoc --product protoc-gen-swift
protoc --plugin=.build-protoc/debug/protoc-gen-swift --proto_path=Sources/Proto \
    --swift_opt=Visibility=Public --swift_out=Sources/Proto Sources/Proto/anira.proto Sources/Proto/worker.proto
