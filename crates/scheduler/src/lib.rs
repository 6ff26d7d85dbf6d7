//! Which node a pod runs on: an incremental picture of the nodes, and decisions without I/O.
#![forbid(unsafe_code)]
