//! What the instructions of a Dockerfile are, as far as one can tell without running them.

use std::time::Duration;

use crate::lines::{Directives, Heredoc};

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// As it was written, continuations joined.
    pub source: String,
    /// The number of its first line, from 1.
    pub line: usize,
    /// The number of its last line.
    pub end: usize,
    /// The comment directly above it.
    pub comment: Vec<String>,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says. Variables are not replaced yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ARG`: names and defaults.
    Arg(Vec<(String, Option<String>)>),
    /// `COPY`.
    Copy(Transfer),
    /// `ADD`.
    Add(Transfer),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// Labels that the caller gives, in which nothing is replaced.
    GivenLabel(Vec<(String, String)>),
    /// `WORKDIR`.
    Workdir(String),
    /// `USER`.
    User(String),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `RUN`.
    Run(Run),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `ONBUILD`: an instruction for images made from this one.
    Onbuild(String),
}

impl Kind {
    /// Whether it can write files, and so is a step of the graph.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Copy(_) | Self::Add(_) | Self::Workdir(_))
    }
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
    /// A text with an interpreter of its own.
    Script(Heredoc),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
    /// `--mount`, in order.
    pub mounts: Vec<MountOptions>,
}

/// One `--mount` of RUN: names and values as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub kind: String,
    /// The other options by the first of their names; one without a value is `true`.
    pub options: Vec<(String, String)>,
}

impl MountOptions {
    /// The value of an option.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// `--from`: a stage, an image or a named context.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`: the layer does not depend on what is below.
    pub link: bool,
    /// `--parents`: directories of the sources are kept.
    pub parents: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<String>,
    /// `--checksum` of what an address gives.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`; none unpacks archives of the context and keeps those of addresses.
    pub unpack: Option<bool>,
    /// Paths in the context.
    pub sources: Vec<String>,
    /// Texts that become files.
    pub texts: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// The command; none takes the base image's check away.
    pub command: Option<Command>,
    /// `--interval`.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`.
    pub retries: u32,
}

/// `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM` as it was written.
    pub source: String,
    /// The number of its line, from 1.
    pub line: usize,
    /// The comment directly above it.
    pub comment: Vec<String>,
    /// The image, or an earlier stage.
    pub base: String,
    /// The name behind `AS`, lower case.
    pub name: Option<String>,
    /// `--platform`.
    pub platform: Option<String>,
    /// The instructions.
    pub instructions: Vec<Instruction>,
}

/// A whole Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// What quotes the next character.
    pub escape: char,
    /// What stands at its top.
    pub directives: Directives,
    /// The `ARG`s before the first `FROM`.
    pub arguments: Vec<Instruction>,
    /// The stages, at least one.
    pub stages: Vec<Stage>,
}
