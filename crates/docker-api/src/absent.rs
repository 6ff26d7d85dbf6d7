//! What is answered for parts of the API that this daemon does not have: swarm, managed plugins, registries.

use http::StatusCode;

use crate::error::ApiError;

const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
const NO_SWARM: &str = "This node is not part of a swarm";
const DECLINED: &str =
    "swarm mode is not supported: this daemon's cluster speaks the Kubernetes API (see `dray kubectl`)";
const NO_REGISTRY: &str = "registries are not supported: images come from build, load and import";

/// Swarm, as a daemon outside of one answers.
pub(crate) fn swarm(method: &str, rest: &[&str]) -> ApiError {
    match (method, rest) {
        ("POST", ["swarm", "init" | "join"]) => ApiError::new(StatusCode::NOT_IMPLEMENTED, DECLINED),
        ("POST", ["swarm", "leave" | "unlock"]) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NO_SWARM),
        _ => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NO_MANAGER),
    }
}

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

/// What only a registry could answer.
pub(crate) fn registry() -> ApiError {
    ApiError::internal(NO_REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_docker_outside_a_swarm() {
        assert_eq!(swarm("GET", &["swarm"]).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(swarm("POST", &["swarm", "leave"]).message, NO_SWARM);
        assert_eq!(swarm("POST", &["swarm", "init"]).status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(plugins("GET", &["a", "b:c", "json"]).message, "plugin \"a/b:c\" not found");
        assert_eq!(plugins("DELETE", &["x"]).status, StatusCode::NOT_FOUND);
        assert_eq!(plugins("POST", &["pull"]).status, StatusCode::NOT_IMPLEMENTED);
    }
}
