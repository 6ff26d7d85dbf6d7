//! How requests are read: Docker's clients send `null` for what is empty.

use serde::{Deserialize, Deserializer};

/// Docker's clients send `null` for what is empty.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A part of a request: names of fields, and what they are called on the wire.
macro_rules! request {
    ($(#[$meta:meta])* $visibility:vis $name:ident { $($field:ident : $kind:ty = $wire:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Default, ::serde::Deserialize)]
        #[serde(default)]
        $visibility struct $name { $(#[serde(rename = $wire, deserialize_with = "crate::wire::nullable")] pub(crate) $field: $kind,)* }
    };
}

pub(crate) use request;
