//! What should exist: every controller watches the cluster through its client and brings it closer to what was asked for.
#![forbid(unsafe_code)]
