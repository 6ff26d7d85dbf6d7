//! Dockerfile to image: a parser, a plan and a cache, run on the engine and the image store.
#![forbid(unsafe_code)]
