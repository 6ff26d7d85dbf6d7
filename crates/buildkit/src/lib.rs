//! BuildKit's API on the builder: the two gRPC connections of a build, and what goes over them.
//!
//! On the one a client asks for builds (`moby.buildkit.v1.Control`) and leads them (`moby.buildkit.v1.frontend`). On the
//! other, its session, the daemon asks the client: for files, secrets, keys, and a place for the result. How a Dockerfile
//! becomes an image is the builder's; this crate knows no HTTP but the connections that it is given.
#![forbid(unsafe_code)]

mod grpc;
mod proto;
mod session;
