//! The plugins of Docker's command line that tests run: buildx and Compose.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Daemon;

/// Where Docker's command line looks for plugins of all users.
const DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// A plugin's program: the one that the environment names, else the installed one.
fn plugin(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let found =
        DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: name one by {variable}, as `cargo xtask test` does"))
}

impl Daemon {
    /// Puts the plugins where this daemon's clients find them.
    pub fn add_plugins(&self) {
        let directory = self.path("config/cli-plugins");
        std::fs::create_dir_all(&directory).unwrap();
        for (variable, name) in [("BUILDX", "docker-buildx"), ("COMPOSE", "docker-compose")] {
            symlink(plugin(variable, name), directory.join(name)).unwrap();
        }
    }

    /// A command of a current client, which builds with buildx and tells its progress in lines.
    pub fn buildx_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env_remove("DOCKER_BUILDKIT").env("BUILDKIT_PROGRESS", "plain");
        command
    }

    pub fn buildx(&self, arguments: &[&str]) -> Output {
        self.buildx_command(arguments).output().unwrap()
    }

    /// What a command that succeeds says on both outputs.
    pub fn buildx_ok(&self, arguments: &[&str]) -> String {
        said(arguments, &self.buildx(arguments), true, &self.path("log"))
    }

    /// What a command that fails says on both outputs.
    pub fn buildx_refused(&self, arguments: &[&str]) -> String {
        said(arguments, &self.buildx(arguments), false, &self.path("log"))
    }
}

pub fn said(arguments: &[&str], output: &Output, is_ok: bool, log: &Path) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = || std::fs::read_to_string(log).unwrap_or_default();
    assert_eq!(output.status.success(), is_ok, "docker {arguments:?}: {text}\n{}", log());
    text
}
