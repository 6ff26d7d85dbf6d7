//! `cargo xtask bench runtime`: `dray runtime run` of a program that ends at once, beside runc and crun, in turns.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{Line, Samples, WARM_UP, bundle, report};
use crate::{
    Error,
    daemon::{Directory, output, prepare},
    tools,
};

/// Rounds that count.
const ROUNDS: usize = 30;

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_peers()?;
    tools::install_crun()?;
    let [dray] = prepare(root, ["dray"])?;
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        // crun wants one version of control groups; this mount namespace is ours.
        output(Command::new("umount").arg(unified))?;
    }
    let directory = Directory::new("bench-runtime")?;
    let bundle = bundle(directory.path())?;
    let state = directory.path().join("runtimes");
    let ours = {
        let mut words = vec![dray.into_os_string()];
        words.push("runtime".into());
        words
    };
    let commands = [ours, vec!["runc".into()], vec!["crun".into()]];
    let mut samples: [Samples; 3] = std::array::from_fn(|_| Samples::default());
    for round in 0..ROUNDS + WARM_UP {
        if round == WARM_UP {
            samples.iter_mut().for_each(|one| one.0.clear());
        }
        for (words, samples) in commands.iter().zip(&mut samples) {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle);
            command.arg(format!("bench-{round}")).stdin(Stdio::null());
            samples.time(|| output(&mut command).map(|_| ()))?;
        }
    }
    let [ours, runc, crun] = samples;
    report(&[
        Line {
            what: "`dray runtime run` of true; peer `crun run`",
            ours: ours.text(),
            peer: crun.text(),
            bar: "below the peer",
            met: ours.median() < crun.median(),
        },
        Line {
            what: "`dray runtime run` of true; peer `runc run`",
            ours: ours.text(),
            peer: runc.text(),
            bar: "1/2 of the peer",
            met: ours.median() * 2.0 <= runc.median(),
        },
    ]);
    Ok(())
}
