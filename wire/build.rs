//! Compiles `proto/pillion/v1/*.proto` with protox, so that no system `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["host", "fn", "data", "state", "error", "function", "metrics"].map(|name| root.join(format!("pillion/v1/{name}.proto")));
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by gRPC reflection.
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Bodies and headers stay slices of the received buffer.
        .bytes(".pillion.v1.Frame")
        .bytes(".pillion.v1.Prepare.input_schema")
        // In one order, so that the same labels are found again.
        .btree_map(".pillion.v1.MetricDelta.labels")
        .build_transport(false)
        .out_dir(&out)
        .compile_fds(descriptors)?;
    Ok(())
}
