//! Stand-ins for the images that the tests of others want: Debian's busybox below names of docker.io.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Error, run};

/// Where the daemon's own registry listens, which stands for docker.io as its mirror.
const MIRROR: &str = "127.0.0.1:5099";
const MIRROR_URL: &str = "http://127.0.0.1:5099";

/// The options of a daemon that pulls what is asked of docker.io from its own registry.
pub(super) const MIRRORED: [&str; 4] = ["--registry", MIRROR, "--registry-mirror", MIRROR_URL];

/// Gives images of the daemon at `host` to that registry, from which they can be pulled.
pub(super) fn publish(host: &str, images: &[&str]) -> Result<(), Error> {
    for image in images {
        let pushed = format!("{MIRROR}/library/{image}");
        for arguments in [["tag", image, &pushed].as_slice(), &["push", "-q", &pushed], &["rmi", &pushed]] {
            run(Command::new("docker").env("DOCKER_HOST", host).args(arguments).stdout(Stdio::null()))?;
        }
    }
    Ok(())
}

/// Something with a shell by both its names, and with the users and directories that an image usually has.
pub(super) const BASE: &str = "FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"/bin\"]
RUN mkdir -p /tmp /etc /usr/bin /sbin /home /root && \
    printf 'root:x:0:0:root:/:/bin/sh\\nnobody:x:65534:65534:nobody:/:/bin/sh\\n' > /etc/passwd && \
    printf '#!/bin/sh\\nexec sh \"$@\"\\n' > /bin/bash && chmod 755 /bin/bash
CMD [\"sh\"]
";

/// An image: its name, what it is made by, and more names for it.
pub(super) type Image = (&'static str, &'static str, &'static [&'static str]);

/// Builds images on the daemon at `host`, one after another, in a context below `directory` that holds busybox.
pub(super) fn make(directory: &Path, host: &str, images: &[Image]) -> Result<(), Error> {
    let docker = |arguments: &[&str], context: &Path| {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0").args(arguments).current_dir(context);
        run(command.stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let context = directory.join("context");
    let failed = |source| Error::File { path: context.clone(), source };
    fs::create_dir_all(&context).map_err(failed)?;
    let busybox = context.join("busybox");
    fs::copy("/bin/busybox", &busybox).map_err(failed)?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    for (image, dockerfile, names) in images {
        fs::write(context.join("Dockerfile"), dockerfile).map_err(failed)?;
        docker(&["build", "-q", "-t", image, "."], &context)?;
        for name in *names {
            docker(&["tag", image, name], &context)?;
        }
    }
    Ok(())
}
