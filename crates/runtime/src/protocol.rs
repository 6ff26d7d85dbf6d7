//! The words that a shim and its clients exchange over the control socket.
//!
//! A client connects and writes one [`Request`] as a JSON line. The shim answers with one [`Reply`] line. After
//! `attach` and its `{"ok":true}` line, the connection carries the process' stdio: to the client either raw bytes
//! (terminal) or frames of an eight byte header (`[1 or 2, 0, 0, 0, length as big-endian u32]`) and bytes; from the
//! client raw bytes. A client that shuts down its writing half ends standard input where the launch says so.
//! After `wait` the reply comes when the process has ended. A connection makes one request.

use serde::{Deserialize, Serialize};

use crate::Process;

/// Longest request line in bytes, its newline included.
pub const REQUEST_LIMIT: usize = 4096;

/// What a client asks of a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Let the created process run its program. Answered when the program runs or could not be run.
    Start,
    /// Join the process' stdio.
    Attach {
        /// Send bytes to standard input.
        stdin: bool,
        /// Receive standard output.
        stdout: bool,
        /// Receive standard error.
        stderr: bool,
    },
    /// Change the size of the terminal.
    Resize {
        /// Columns.
        #[serde(rename = "w")]
        width: u16,
        /// Rows.
        #[serde(rename = "h")]
        height: u16,
    },
    /// Answer when the process has ended.
    Wait,
    /// Answer with the process' state.
    State,
    /// Close the process' standard input.
    CloseStdin,
}

/// What a shim answers: an object with one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// `{"ok":true}`: done.
    Ok(bool),
    /// `{"error":{"kind":…,"message":…}}`: not done, and why.
    Error(Failure),
    /// `{"exit":{…}}`: the process has ended.
    Exit(Exit),
    /// `{"state":{…}}`.
    State(State),
    /// `{"created":{"pid":…,"start_time":…}}`: sent once to whoever spawned the shim.
    Created(Process),
}

/// Why a process could not be made or started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What a caller decides on.
    pub kind: FailureKind,
    /// For the user, as Docker words it.
    pub message: String,
}

/// What a caller decides on when a process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist: shells and Docker say 127.
    CommandNotFound,
    /// The program exists but cannot be run: 126.
    CannotInvoke,
    /// The container could not be prepared as asked.
    Setup,
    /// The request does not fit the state of the process, for example a second start.
    State,
    /// The request could not be understood.
    Request,
}

impl FailureKind {
    /// Exit code that Docker reports for this failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::CommandNotFound => 127,
            Self::CannotInvoke => 126,
            Self::Setup | Self::State | Self::Request => 128,
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 and the signal's number.
    pub code: u8,
    /// Signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed something in the container's control group for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it ended: RFC 3339 in UTC with up to nanoseconds.
    pub finished_at: String,
}

/// What a shim knows about its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The process; its pid is meaningless once it has ended.
    #[serde(flatten)]
    pub process: Process,
    /// How far it has come.
    pub status: Status,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Prepared up to the last step; waits for [`Request::Start`].
    Created,
    /// Runs its program.
    Running,
    /// Has ended.
    Exited,
}
