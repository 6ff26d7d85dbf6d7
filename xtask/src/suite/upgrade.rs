//! Containers of another build go on and answer to this one. `DRAY_PREVIOUS` names the other: a binary, or a commit, which
//! is built first; by default the commit ten before this.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    run as run_command, tools,
};

const DEFAULT: &str = "HEAD~10";
const IMAGE: &str = "box";

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_packages()?;
    tools::install_docker()?;
    let previous = std::env::var("DRAY_PREVIOUS").unwrap_or_else(|_| DEFAULT.to_owned());
    let before =
        if Path::new(&previous).is_file() { PathBuf::from(&previous) } else { built(root, &previous)? };
    let [after] = prepare(root, ["dray"])?;
    let directory = Directory::new("upgrade")?;
    for (from, to) in [(&before, &after), (&after, &before)] {
        change(from, to, directory.path())?;
    }
    println!("xtask: containers answered after the change from {previous} and back");
    Ok(())
}

/// Builds a commit in a work tree of its own.
fn built(root: &Path, commit: &str) -> Result<PathBuf, Error> {
    let tree = root.join("target/previous");
    if !tree.exists() {
        run_command(
            Command::new("git")
                .args(["worktree", "add", "--detach"])
                .arg(&tree)
                .arg(commit)
                .current_dir(root),
        )?;
    }
    run_command(Command::new("git").args(["checkout", "--detach", commit]).current_dir(&tree))?;
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--package", "dray", "--target-dir"]).arg(tree.join("target"));
    run_command(build.current_dir(&tree))?;
    let found = output(Command::new("find").arg(tree.join("target")).args([
        "-path",
        "*/release/dray",
        "-type",
        "f",
    ]))?;
    found.lines().next().map(PathBuf::from).ok_or(Error::Missing { path: tree })
}

fn expect(what: &str, is_right: bool) -> Result<(), Error> {
    if is_right { Ok(()) } else { Err(Error::Unexpected { what: format!("after the change {what}") }) }
}

fn change(from: &Path, to: &Path, directory: &Path) -> Result<(), Error> {
    let state = directory.join(format!("state-{}", std::process::id()));
    let file = |source| Error::File { path: state.clone(), source };
    fs::create_dir_all(&state).map_err(file)?;
    let daemon = Daemon::start(from, &state)?;
    let context = directory.join("context");
    fs::create_dir_all(&context).map_err(file)?;
    fs::copy("/bin/busybox", context.join("busybox")).map_err(file)?;
    let steps: String = ["sh", "sleep", "true", "echo", "usleep"]
        .iter()
        .map(|name| format!("COPY busybox /bin/{name}\n"))
        .collect();
    fs::write(context.join("Dockerfile"), format!("FROM scratch\n{steps}")).map_err(file)?;
    daemon.ask(&["build", "-q", "-t", IMAGE, &context.to_string_lossy()])?;
    daemon.ask(&["network", "create", "apart"])?;
    daemon.ask(&["volume", "create", "kept"])?;
    let count = "i=0; while :; do echo line $i; i=$((i+1)); usleep 20000; done";
    let command =
        ["run", "-d", "--name", "runs", "--network", "apart", "-v", "kept:/kept", IMAGE, "sh", "-c", count];
    daemon.ask(&command)?;
    daemon.ask(&["run", "-d", "--name", "ends", IMAGE, "sh", "-c", "exit 7"])?;
    daemon.ask(&["wait", "ends"])?;
    let pid = daemon.ask(&["inspect", "-f", "{{.State.Pid}}", "runs"])?;
    daemon.stop(false)?;

    let daemon = Daemon::start(to, &state)?;
    expect("the process is another", daemon.ask(&["inspect", "-f", "{{.State.Pid}}", "runs"])? == pid)?;
    expect("the exit code is lost", daemon.ask(&["inspect", "-f", "{{.State.ExitCode}}", "ends"])? == "7")?;
    expect("exec does not work", daemon.ask(&["exec", "runs", "echo", "here"])? == "here")?;
    let log = daemon.ask(&["logs", "runs"])?;
    let is_whole = log.lines().enumerate().all(|(index, line)| line == format!("line {index}"));
    expect("the log has a gap", is_whole && !log.is_empty())?;
    daemon.ask(&["restart", "-t", "0", "runs"])?;
    daemon.ask(&["stop", "-t", "0", "runs"])?;
    daemon.ask(&["rm", "runs", "ends"])?;
    daemon.ask(&["network", "rm", "apart"])?;
    daemon.stop(true)?;
    fs::remove_dir_all(&state).map_err(file)
}
