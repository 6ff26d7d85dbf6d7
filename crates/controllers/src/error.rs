//! What can go wrong in this crate.

/// The result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure. Those of a single object are logged and tried again; only the others end the controllers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused a request about an object, or could not be reached.
    #[error("cannot {action} {kind} {object}")]
    Request {
        /// What was tried, as "create".
        action: &'static str,
        /// The object's kind.
        kind: String,
        /// "NAMESPACE/NAME", or the name.
        object: String,
        /// What the API said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The kinds that the API serves could not be read.
    #[error("cannot read which kinds the API serves")]
    Discovery {
        /// What the API said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A watch of the API ended, which it never should.
    #[error("the watch of {kind} ended")]
    WatchEnded {
        /// The kind.
        kind: String,
    },
    /// The selector of an object cannot be understood.
    #[error("the selector of {object} is wrong: {reason}")]
    Selector {
        /// "NAMESPACE/NAME".
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory of a volume could not be made or removed.
    #[error("cannot see to the directory of the volume {volume}")]
    Directory {
        /// The volume's name.
        volume: String,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// What is known of an object is older than what was written: it will be seen to when the watch has caught up.
    #[error("the watch has not yet brought what was written for {object}")]
    Stale {
        /// "NAMESPACE/NAME".
        object: String,
    },
}

impl Error {
    /// Makes, for `map_err`, the failure of a request about an object.
    pub(crate) fn request(
        action: &'static str,
        kind: impl Into<String>,
        object: impl ToString,
    ) -> impl FnOnce(kube::Error) -> Error {
        move |source| Error::Request {
            action,
            kind: kind.into(),
            object: object.to_string(),
            source: Box::new(source),
        }
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// Whether the name is taken.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|status| status.reason == "AlreadyExists")
    }

    /// Whether another change came first.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409 && status.reason == "Conflict")
    }

    /// Whether nothing can be made because the namespace is on its way out.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            status.details.as_ref().is_some_and(|details| {
                details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
            })
        })
    }

    /// The API's message, for events and conditions.
    pub(crate) fn message(&self) -> String {
        match (self.status(), self) {
            (Some(status), _) => status.message.clone(),
            (None, Error::Request { source, .. }) => source.to_string(),
            (None, other) => other.to_string(),
        }
    }
}
