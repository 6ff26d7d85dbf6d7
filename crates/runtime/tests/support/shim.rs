//! The binary of the runtime's tests: a shim when it is asked to be one, nothing else.
#![forbid(unsafe_code)]

fn main() {
    dray_runtime::shim::main_if_requested();
}
