//! What is answered for parts of the API that this daemon does not have: managed plugins, the search of Docker Hub.

use http::StatusCode;

use crate::error::ApiError;

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

/// The search, which is no part of what registries speak.
pub(crate) fn search() -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "search is not supported: registries have no search; look on the web page of yours",
    )
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
