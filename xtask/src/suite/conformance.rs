//! `cargo xtask suite conformance`: Kubernetes' own conformance tests, as their own program against a cluster of one node.
//!
//! They are those of 1.20, of which Debian has the source. `CONFORMANCE=DIR` names what is built from it: the source in `src`,
//! and in `bin` the programs e2e.test, kubectl, agnhost, pause, sample-apiserver and nnp. The images are made here. `FOCUS=REGEX`
//! runs only tests whose names fit, `DRAY=PATH` names a binary that is built already.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;

use crate::{
    Error,
    daemon::{Daemon, Directory, output},
    program, tools,
};

use super::debian;

/// What is ours of it in the repository.
const OURS: &str = "xtask/suites/conformance";
/// What the images' programs are taken from.
const PACKAGES: &str =
    "apache2,ca-certificates,curl,dnsutils,etcd-server,iproute2,netcat-openbsd,nginx-light,perl,redis-server";
/// What images are made of, and where it is in the built source.
const PROGRAMS: [(&str, &str); 6] = [
    ("agnhost", "bin/agnhost"),
    ("pause", "bin/pause"),
    ("sample-apiserver", "bin/sample-apiserver"),
    ("nnp", "bin/nnp"),
    ("localhost.crt", "src/test/images/agnhost/porter/localhost.crt"),
    ("localhost.key", "src/test/images/agnhost/porter/localhost.key"),
];

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// Makes the images on the daemon.
fn make_images(
    root: &Path,
    built: &Path,
    daemon: &Daemon,
    base: &Path,
    directory: &Path,
) -> Result<(), Error> {
    let context = directory.join("context");
    fs::create_dir_all(&context).map_err(file(&context))?;
    let sources = PROGRAMS.map(|(name, source)| (name, built.join(source)));
    for (name, source) in sources.into_iter().chain([("busybox", PathBuf::from("/bin/busybox"))]) {
        fs::copy(&source, context.join(name)).map_err(file(&source))?;
    }
    let ours = root.join(OURS);
    let (dockerfile, list) = (ours.join("Dockerfile"), ours.join("images.txt"));
    fs::copy(&dockerfile, context.join("Dockerfile")).map_err(file(&dockerfile))?;
    let list = fs::read_to_string(&list).map_err(file(&list))?;
    let host = format!("unix://{}", daemon.socket().display());
    output(Command::new("docker").env("DOCKER_HOST", host).arg("import").arg(base).arg("debian:suite"))?;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(target) = words.next() else { continue };
        let mut build = daemon.client(&["build", "-q", "--target", target]);
        words.for_each(|name| {
            build.args(["-t", name]);
        });
        output(build.arg(&context))?;
    }
    Ok(())
}

/// Gives each service account a token that is a Secret, as the cluster did until 1.24: tests of 1.20 begin when the one of
/// their namespace has one.
fn give_tokens(kubectl: &Path, kubeconfig: &Path, over: &AtomicBool) -> Result<(), Error> {
    // A watch has an end, and the suite may last longer.
    while !over.load(Ordering::Relaxed) {
        follow_accounts(kubectl, kubeconfig)?;
    }
    Ok(())
}

/// The same until a watch ends.
fn follow_accounts(kubectl: &Path, kubeconfig: &Path) -> Result<(), Error> {
    let command = |arguments: &[&str]| {
        let mut command = Command::new(kubectl);
        command.env("KUBECONFIG", kubeconfig).args(arguments);
        command
    };
    let columns = r#"jsonpath={.metadata.namespace}{" "}{.metadata.name}{" "}{.secrets[*].name}{"\n"}"#;
    let mut watch = command(&["get", "serviceaccounts", "--all-namespaces", "--watch", "--output", columns]);
    let mut watch = watch
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: "kubectl".to_owned(), source })?;
    for line in
        watch.stdout.take().into_iter().flat_map(|lines| BufReader::new(lines).lines()).map_while(Result::ok)
    {
        let [namespace, account] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let secret = format!("{account}-token");
        let token = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {
                "namespace": namespace, "name": secret,
                "annotations": { "kubernetes.io/service-account.name": account },
            },
        });
        let secrets = json!({ "secrets": [{ "name": secret }] }).to_string();
        let patch = ["patch", "serviceaccount", "--namespace", namespace, account, "--patch", &secrets];
        // A namespace that has gone by now wants no token.
        let mut create = command(&["create", "--filename", "-"]);
        let created = create.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut created = created.map_err(|source| Error::Start { program: "kubectl".to_owned(), source })?;
        let written = created.stdin.take().map(|mut input| input.write_all(token.to_string().as_bytes()));
        if created.wait().is_ok_and(|status| status.success()) && matches!(written, Some(Ok(()))) {
            let _ = command(&patch).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
    let _ = watch.wait();
    Ok(())
}

/// The tests that ran, of a report as JUnit writes it.
fn results(report: &str) -> BTreeMap<String, End> {
    let mut found = BTreeMap::new();
    for case in report.split("<testcase ").skip(1) {
        let (Some(name), body) =
            (attribute(case, "name"), case.split("</testcase>").next().unwrap_or_default())
        else {
            continue;
        };
        if !body.contains("<skipped") {
            let end = if body.contains("<failure") { End::Failed } else { End::Passed };
            found.insert(name, end);
        }
    }
    found
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let value = element.split_once(&format!("{name}=\""))?.1.split_once('"')?.0;
    let entities = [("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    Some(entities.iter().fold(value.to_owned(), |text, (entity, meant)| text.replace(entity, meant)))
}

/// The group of a test: what its name begins with.
fn group(name: &str) -> &str {
    name.split_once(']').map_or(name, |(group, _)| group.trim_start_matches('['))
}

pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let Some(built) = std::env::var_os("CONFORMANCE").map(PathBuf::from) else {
        return Err(Error::Unexpected {
            what: "CONFORMANCE names no directory with the built suite".to_owned(),
        });
    };
    tools::install_docker()?;
    let base = debian::base(root, "conformance", PACKAGES)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("conformance")?;
    let daemon = Daemon::start(&dray, directory.path())?;
    make_images(root, &built, &daemon, &base, directory.path())?;
    let reports = tools::directory(root).join("conformance/report");
    fs::create_dir_all(&reports).map_err(file(&reports))?;
    let focus = std::env::var("FOCUS").unwrap_or_default();
    let (kubectl, kubeconfig) = (built.join("bin/kubectl"), directory.path().join("data/kubeconfig"));
    let over = Arc::new(AtomicBool::new(false));
    let tokens = {
        let (kubectl, kubeconfig, over) = (kubectl.clone(), kubeconfig.clone(), over.clone());
        std::thread::spawn(move || give_tokens(&kubectl, &kubeconfig, &over))
    };
    let mut suite = Command::new(built.join("bin/e2e.test"));
    suite.arg("--provider=skeleton").arg("--num-nodes=1").arg("--kube-api-content-type=application/json");
    suite.args(["--ginkgo.noColor", "--dump-logs-on-failure=false"]);
    suite.arg(format!("--ginkgo.focus={focus}.*\\[Conformance\\]"));
    suite.arg(format!("--kubeconfig={}", kubeconfig.display()));
    suite.arg(format!("--kubectl-path={}", kubectl.display()));
    suite.arg(format!("--report-dir={}", reports.display())).current_dir(directory.path());
    println!("xtask: {}", crate::describe(&suite));
    let log = reports.join("log");
    let writer = fs::File::create(&log).map_err(file(&log))?;
    let errors = writer.try_clone().map_err(file(&log))?;
    let ended = suite.stdout(writer).stderr(errors).status();
    ended.map_err(|source| Error::Start { program: program(&suite), source })?;
    over.store(true, Ordering::Relaxed);
    daemon.stop(true)?;
    match tokens.join() {
        Ok(told) => told?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    let report = reports.join("junit_01.xml");
    let results = results(&fs::read_to_string(&report).map_err(file(&report))?);
    let mut groups: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (name, end) in &results {
        let (passed, failed) = groups.entry(group(name)).or_default();
        *if *end == End::Passed { passed } else { failed } += 1;
    }
    println!("| group | passed | failed |\n| --- | --- | --- |");
    for (group, (passed, failed)) in groups {
        println!("| {group} | {passed} | {failed} |");
    }
    println!("xtask: all that the tests said is in {}", log.display());
    let failed = results.iter().filter(|(_, end)| **end == End::Failed).map(|(name, _)| name.as_str());
    super::judge(root, "conformance", failed.collect::<BTreeSet<_>>())
}
