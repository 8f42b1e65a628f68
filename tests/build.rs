//! Compiles the protocol that the KurrentDB of the tests speaks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "src/kurrent";
    println!("cargo::rerun-if-changed={folder}");
    let files = protox::compile(["streams.proto", "server_features.proto"], [folder])?;
    tonic_prost_build::configure().build_client(false).compile_fds(files)?;
    Ok(())
}
