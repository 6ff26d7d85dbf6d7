//! Forgetting tracked connections.
