//! Compiles `proto/` to Rust with protox, which is pure Rust: no protoc is needed.

use std::error::Error;

const FILES: [&str; 10] = [
    "health/health.proto",
    "logical/identity.proto",
    "logical/version.proto",
    "pb/backend.proto",
    "pb/storage.proto",
    "pb/system_view.proto",
    "plugin/grpc_broker.proto",
    "plugin/grpc_controller.proto",
    "plugin/grpc_stdio.proto",
    "pluginutil/multiplexing.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure()
        // Requests, answers and stored entries hold secrets: no message can be printed at all.
        .skip_debug(["."])
        .compile_fds(protox::compile(FILES, ["proto"])?)?;
    Ok(())
}
