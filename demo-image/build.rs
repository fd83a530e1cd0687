//! Compiles the demo program as a static executable, to be embedded by the library.
//!
//! Cargo cannot say that one package needs another's executable for the same target, statically linked; one file of
//! plain `std` needs nothing else of Cargo, so the compiler is called directly.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed=build.rs");
    let target = variable("TARGET")?;
    let program = PathBuf::from(variable("OUT_DIR")?).join("app");

    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args(["--crate-name", "app", "--crate-type", "bin", "--edition", "2024", "-O"])
        .args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["--target", &target])
        .arg("-o")
        .arg(&program)
        .arg("program/main.rs");
    if let Ok(linker) = variable("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.status()?;
    if !status.success() {
        return Err(format!("the demo program does not compile for {target}: rustc ended with {status}").into());
    }

    println!("cargo::rustc-env=LONGSHORE_DEMO_PROGRAM={}", program.display());
    println!("cargo::rustc-env=LONGSHORE_DEMO_ARCHITECTURE={}", oci_architecture(&variable("CARGO_CFG_TARGET_ARCH")?));
    Ok(())
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

/// OCI names architectures as Go does.
fn oci_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        other => other,
    }
}
