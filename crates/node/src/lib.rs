//! Pods on this machine, through the engine: what is bound here runs here, and its state is told back.
#![forbid(unsafe_code)]
