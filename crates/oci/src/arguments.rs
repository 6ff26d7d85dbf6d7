//! The command line, as runc has it.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Run containers from bundles of the OCI runtime specification.
#[derive(Debug, Parser)]
#[command(name = "dray runtime", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options before the command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept; /run/dray/runtime, or below $XDG_RUNTIME_DIR for other users.
    #[arg(long)]
    pub(crate) root: Option<PathBuf>,
    /// A file that messages are added to.
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
    /// The format of that file.
    #[arg(long, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Accepted; there is nothing more to tell.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Read cgroup paths as systemd's SLICE:PREFIX:NAME; the groups are made without systemd.
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Ignore what needs root: true, false or auto.
    #[arg(long, default_value = "auto")]
    pub(crate) rootless: String,
    /// Accepted; there is no CRIU.
    #[arg(long, hide = true)]
    pub(crate) criu: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container; its program waits for start.
    Create(CreateOptions),
    /// Run the program of a created container.
    Start(Id),
    /// Make a container, run its program, and delete it in the end.
    Run(CreateOptions),
    /// Print a container's state as JSON.
    State(Id),
    /// Send a signal (SIGTERM by default) to a container's first process.
    Kill(KillOptions),
    /// Take away what a container held.
    Delete(DeleteOptions),
    /// Run one more process in a running container.
    Exec(Box<ExecOptions>),
    /// Print the processes of a container.
    Ps(PsOptions),
    /// Print what a container uses, and when it runs out of memory.
    Events(EventsOptions),
    /// Change the limits of a container.
    Update(Box<UpdateOptions>),
    /// Stop all processes of a container where they are.
    Pause(Id),
    /// Let paused processes go on.
    Resume(Id),
    /// Print all containers.
    #[command(alias = "ls")]
    List(ListOptions),
    /// Write a config.json to begin with.
    Spec(SpecOptions),
    /// Print what this runtime can do, as JSON.
    Features,
    /// Not supported.
    #[command(hide = true)]
    Checkpoint(Rest),
    /// Not supported.
    #[command(hide = true)]
    Restore(Rest),
}

#[derive(Debug, Args)]
pub(crate) struct Id {
    /// The container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateOptions {
    /// The directory with config.json.
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// A socket that gets the master of the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// A file that gets the pid.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Change the root without pivot_root, for roots in an initial ramdisk.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the session keyring.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Descriptors after standard error that the program gets.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Do not stay until the program has ended (run only).
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete the container in the end (run only).
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted; orphans are not waited for.
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// The container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct KillOptions {
    /// Send it to every process of the container.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The container.
    pub(crate) id: String,
    /// Name or number.
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteOptions {
    /// Kill it first, and do not mind when it does not exist.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// A socket that gets the master of the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// The working directory.
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    /// An environment variable, NAME=VALUE.
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Give it a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Who runs it: UID[:GID].
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Further groups.
    #[arg(short = 'g', long)]
    pub(crate) additional_gids: Vec<u32>,
    /// A file with the process as JSON.
    #[arg(short, long)]
    pub(crate) process: Option<PathBuf>,
    /// Do not stay until it has ended.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// A file that gets the pid.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label.
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile.
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    /// Set no_new_privs.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// A capability that it gets too.
    #[arg(short, long)]
    pub(crate) cap: Vec<String>,
    /// Descriptors after standard error that the program gets.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// A group below the container's.
    #[arg(long)]
    pub(crate) cgroup: Vec<String>,
    /// Do not mind that the container is paused.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Accepted; orphans are not waited for.
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// The container.
    pub(crate) id: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PsOptions {
    /// How to print.
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
    /// The container.
    pub(crate) id: String,
    /// Accepted as runc does; the table has always the columns of `ps -ef`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsOptions {
    /// Time between two prints, for example 5s.
    #[arg(long, default_value = "5s")]
    pub(crate) interval: String,
    /// Print what it uses once and end.
    #[arg(long)]
    pub(crate) stats: bool,
    /// The container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// How to print.
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
    /// Print ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SpecOptions {
    /// The directory to write to.
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For a user without rights.
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateOptions {
    /// A file with resources as JSON, or - for standard input; other options are then not read.
    #[arg(short, long)]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of its disk traffic, 10 to 1000.
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds of a period.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of processor time in a period.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds that may be saved up.
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// Relative weight of its processor time.
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// Microseconds of a real-time period.
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Microseconds of real-time processor time in a period.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Processors, for example 0-2.
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes.
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory in bytes; K, M and G are understood, -1 is no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Memory that is left to it when memory is scarce.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap together.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Number of processes.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Accepted; the kernel no longer has it.
    #[arg(long, hide = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Accepted; the kernel no longer has it.
    #[arg(long, hide = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// Run only when nothing else wants to, 1, or not, 0.
    #[arg(long, action = ArgAction::Set)]
    pub(crate) cpu_idle: Option<i64>,
    /// The container.
    pub(crate) id: String,
}
