//! What a shim is told: one file, `launch.json`, in a directory of its own.
//!
//! It knows nothing of how the engine came to these values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

use crate::{Error, Process, Result};

/// Name of the specification inside the launch directory.
pub const LAUNCH_FILE: &str = "launch.json";

/// The annotation of a specification that, being `true`, puts the program beneath an init process.
pub const INIT_ANNOTATION: &str = "dev.dray.init";

/// Largest `launch.json` that a shim reads, in bytes.
pub const LAUNCH_FILE_LIMIT: u64 = 16 << 20;

/// One process for one shim: a container's first, or one that joins a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Name of the container or of the exec, for messages and process names only.
    pub id: String,
    /// What is started.
    pub kind: Kind,
    /// Control group below each hierarchy's root, for example `dray-1f/pod-3/0af3`; relative, without `..`.
    ///
    /// For [`Kind::Init`] it is created with `spec.linux.resources` and removed when the container has ended;
    /// an exec is put into it as it is.
    pub cgroup: Option<PathBuf>,
    /// Where standard input, output and error go.
    pub stdio: Stdio,
    /// Control socket that the shim makes; its directory must exist with mode 0700. Absolute.
    pub socket: PathBuf,
    /// File that holds a [`crate::protocol::Exit`] as JSON once the process has ended. Absolute.
    pub exit_file: PathBuf,
    /// File that holds a [`Process`] (pid and start time) as JSON once the process exists. Absolute.
    pub pid_file: PathBuf,
}

/// A container's first process, or one that joins it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A new container.
    Init {
        /// The OCI runtime specification. `root.path` is not read: see `rootfs`; `hooks` must be empty.
        spec: Box<Spec>,
        /// Where the root file system comes from.
        rootfs: Rootfs,
    },
    /// One more process in a running container.
    Exec {
        /// The container's first process; refused when its start time is not this one.
        target: Process,
        /// What to run. `terminal` is not read: see [`Stdio::terminal`].
        process: Box<oci_spec::runtime::Process>,
        /// System call filter, usually that of the container.
        seccomp: Option<LinuxSeccomp>,
    },
}

/// Where a container's root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// Layers put together by overlayfs, mounted inside the container's mount namespace only.
    Overlay {
        /// Read-only layers, the uppermost first.
        lower: Vec<PathBuf>,
        /// Writable layer. None mounts the layers read-only.
        upper: Option<PathBuf>,
        /// Work directory on the file system of `upper`.
        work: Option<PathBuf>,
    },
    /// A directory as it is.
    Path(PathBuf),
}

/// Where standard input, output and error go.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// A pseudo terminal of this size; None gives pipes.
    pub terminal: Option<TerminalSize>,
    /// Keep standard input open for attached clients; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close standard input when the first client that sends it has finished.
    pub stdin_once: bool,
    /// Log file in the json-file format.
    pub log: Option<LogFile>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A log in Docker's json-file format: one JSON object a line with `log`, `stream` and `time`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogFile {
    /// The file that is written; rotated ones are named `PATH.1` (newest), `PATH.2`, ... Absolute.
    pub path: PathBuf,
    /// Bytes after which the file is rotated; None never rotates.
    pub max_size: Option<u64>,
    /// Number of files that are kept, the written one included; at least 1.
    pub max_files: u32,
    /// What each object has as `attrs`; nothing when it is empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Where each line is sent besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<LogForward>,
}

/// A log of the host's that lines are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogForward {
    /// A syslog receiver.
    Syslog {
        /// `unix://PATH`, `unixgram://PATH`, `udp://HOST:PORT` or `tcp://HOST:PORT`.
        address: String,
        /// The facility's number, 0 to 23.
        facility: u8,
        /// The name that messages carry.
        tag: String,
        /// The form of messages.
        format: SyslogFormat,
    },
    /// journald, in its own protocol.
    Journald {
        /// Fields that every message has besides its text and priority.
        fields: Vec<(String, String)>,
    },
}

/// The form of syslog messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// RFC 3164 without a host name, as a local receiver wants it.
    #[default]
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
}

impl LaunchSpec {
    /// Writes the specification as `launch.json` into an existing directory.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(LAUNCH_FILE);
        let bytes = serde_json::to_vec(self).map_err(|source| Error::Json {
            what: "launch specification",
            path: path.clone(),
            source,
        })?;
        std::fs::write(&path, bytes).map_err(|source| Error::File { operation: "write", path, source })
    }

    /// Reads the specification from a launch directory.
    pub fn read(directory: &Path) -> Result<Self> {
        use std::io::Read as _;
        let path = directory.join(LAUNCH_FILE);
        let file = std::fs::File::open(&path).map_err(|source| Error::File {
            operation: "open",
            path: path.clone(),
            source,
        })?;
        let mut bytes = Vec::with_capacity(64 << 10);
        file.take(LAUNCH_FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|source| Error::File {
            operation: "read",
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 > LAUNCH_FILE_LIMIT {
            return Err(Error::TooLarge { path, limit: LAUNCH_FILE_LIMIT });
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            what: "launch specification",
            path,
            source,
        })
    }
}
