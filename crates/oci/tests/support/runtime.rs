//! The binary of this crate's tests: the command line of the runtime without the rest of the product.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    dray_oci::main_if_requested().unwrap_or(std::process::ExitCode::from(64))
}
