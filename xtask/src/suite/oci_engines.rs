//! Other engines with our runtime: Debian's podman and containerd run containers, and everything they ask works.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, tools};

/// What is tried of podman; $1 is an empty directory, $2 the runtime.
const PODMAN: &str = r#"
set -eu
D=$1; export HOME=$D XDG_RUNTIME_DIR=$D
cat > "$D/policy.json" <<P
{"default":[{"type":"insecureAcceptAnything"}]}
P
printf '[engine]\n' > "$D/containers.conf"; export CONTAINERS_CONF="$D/containers.conf"
podman() { command podman --root "$D/s" --runroot "$D/r" --storage-driver vfs --cgroup-manager cgroupfs \
  --events-backend file --runtime "$2" "${@:3}"; }
p() { podman x "$R" "$@"; }
R=$2
tar -C "$D/rootfs" -c . | p import --signature-policy "$D/policy.json" - box >/dev/null 2>&1 \
  || tar -C "$D/rootfs" -c . | p import - box >/dev/null
same() { if [ "$1" != "$2" ]; then echo "expected '$1', got '$2'"; exit 1; fi; }
same hello "$(p run --rm --net=none box echo hello)"
p run -d --name c --net=none box sleep 1000 >/dev/null
same 'uid=0 gid=0' "$(p exec c id)"
code=0; p exec c sh -c 'exit 9' || code=$?; same 9 $code
p pause c >/dev/null; p unpause c >/dev/null; p top c >/dev/null
code=0; p run --rm --net=none --memory 64m --pids-limit 33 box sh -c 'exit 5' || code=$?; same 5 $code
p kill c >/dev/null; p rm -f c >/dev/null
"#;

/// What is tried of containerd.
const CONTAINERD: &str = r#"
set -eu
D=$1; R=$2
cat > "$D/c.toml" <<T
version = 2
root = "$D/root"
state = "$D/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
 address = "$D/c.sock"
T
containerd -c "$D/c.toml" > "$D/log" 2>&1 & CONTAINERD=$!
trap 'kill $CONTAINERD; wait $CONTAINERD || true' EXIT
c() { ctr -a "$D/c.sock" "$@"; }
for i in $(seq 200); do if c version >/dev/null 2>&1; then break; fi; sleep 0.1; done
same() { if [ "$1" != "$2" ]; then echo "expected '$1', got '$2'"; exit 1; fi; }
same hello "$(c run --rm --runc-binary "$R" --rootfs "$D/rootfs" c1 /bin/echo hello)"
c run -d --runc-binary "$R" --rootfs "$D/rootfs" c2 /bin/sleep 1000
same 'uid=0 gid=0' "$(c task exec --exec-id e1 c2 /bin/id)"
c task pause c2; c task ls | grep -q PAUSED; c task resume c2; c task metrics c2 >/dev/null; c task ps c2 >/dev/null
c task kill -s KILL c2
for i in $(seq 100); do if c task ls | grep -q STOPPED; then break; fi; sleep 0.1; done
c task rm c2 2>/dev/null || true; c container rm c2
if c run --rm --runc-binary "$R" --rootfs "$D/rootfs" c3 /bin/missing 2>/dev/null; then echo "it ran"; exit 1; fi
"#;

/// Runs both in namespaces of their own.
pub(super) fn run(directory: &Path, runtime: &Path) -> Result<(), Error> {
    tools::install_engines()?;
    for (name, script) in [("podman", PODMAN), ("containerd", CONTAINERD)] {
        let place = place(directory, name)?;
        // The scripts of engines call the runtime by a path, and its link by that name has runc's command line.
        let runtime = std::path::absolute(runtime).unwrap_or_else(|_| runtime.to_path_buf());
        let mut command = Command::new("unshare");
        command
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "timeout",
                "180",
                "bash",
                "-c",
                script,
                name,
            ])
            .arg(&place)
            .arg(&runtime);
        let output =
            command.output().map_err(|source| Error::Start { program: "unshare".to_owned(), source })?;
        let _ = fs::remove_dir_all(&place);
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            return Err(Error::Unexpected { what: format!("{name} with the runtime: {said}") });
        }
        println!("{name}: runs containers with the runtime");
    }
    Ok(())
}

/// An empty directory but for a root file system.
fn place(directory: &Path, name: &str) -> Result<PathBuf, Error> {
    let place = directory.join(name);
    let _ = fs::remove_dir_all(&place);
    let bin = place.join("rootfs/bin");
    for part in ["bin", "proc", "dev", "sys", "etc", "tmp", "run"] {
        let path = place.join("rootfs").join(part);
        fs::create_dir_all(&path).map_err(|source| Error::File { path, source })?;
    }
    for program in ["sh", "echo", "sleep", "id"] {
        let path = bin.join(program);
        fs::copy("/bin/busybox", &path).map_err(|source| Error::File { path, source })?;
    }
    Ok(place)
}
