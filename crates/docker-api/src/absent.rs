//! What is answered for parts of the API that this daemon does not have: managed plugins, registries.

use http::StatusCode;

use crate::error::ApiError;

const NO_REGISTRY: &str = "registries are not supported: images come from build, load and import";

/// Managed plugins: none is there, and none can be had.
pub(crate) fn plugins(method: &str, rest: &[&str]) -> ApiError {
    let name = match (method, rest) {
        ("GET", ["privileges"]) | ("POST", ["pull" | "create"]) => {
            return ApiError::new(StatusCode::NOT_IMPLEMENTED, "managed plugins are not supported");
        }
        ("GET" | "POST", [name @ .., "json" | "enable" | "disable" | "upgrade" | "set" | "push"]) => name,
        (_, name) => name,
    };
    ApiError::not_found(format!("plugin \"{}\" not found", name.join("/")))
}

/// Credentials, which only a registry could check.
pub(crate) fn login() -> ApiError {
    ApiError::internal("login to registries is not supported: images come from build, load and import")
}

/// What only a registry could answer.
pub(crate) fn registry() -> ApiError {
    ApiError::internal(NO_REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_docker_without_plugins() {
        assert_eq!(plugins("GET", &["a", "b:c", "json"]).message, "plugin \"a/b:c\" not found");
        assert_eq!(plugins("DELETE", &["x"]).status, StatusCode::NOT_FOUND);
        assert_eq!(plugins("POST", &["pull"]).status, StatusCode::NOT_IMPLEMENTED);
    }
}
