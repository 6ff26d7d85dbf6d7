//! Attributes as clients send them.

use super::*;

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_plain_build_takes_two_directories() {
    let wanted = read(&attributes(&[("filename", "Dockerfile")]), &[]).unwrap();
    assert_eq!(wanted.context, MainContext::Local("context".to_owned()));
    let dockerfile = DockerfileSource::Local { name: "dockerfile".to_owned(), path: "Dockerfile".to_owned() };
    assert_eq!(wanted.request.dockerfile, dockerfile);
    assert_eq!(wanted.request.no_cache, NoCache::Never);
    assert!(!wanted.request.pull);
}

#[test]
fn all_that_clients_say_is_heard() {
    let said = attributes(&[
        ("filename", "x/Containerfile"),
        ("dockerfilekey", "other"),
        ("target", "app"),
        ("build-arg:A", "1=2"),
        ("build-arg:EMPTY", ""),
        ("label:l", "v"),
        ("no-cache", "one,two"),
        ("platform", "linux/amd64,linux/arm64/v8"),
        ("add-hosts", "a=10.0.0.1,b=[::1]"),
        ("force-network-mode", "none"),
        ("shm-size", "1048576"),
        ("ulimit", "nofile=10:20,core=-1"),
        ("cgroup-parent", "/builds"),
        ("hostname", "box"),
        ("image-resolve-mode", "pull"),
        ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"r/x"}},{"Type":"gha"}]"#),
        ("cache-from", "r/y"),
        ("context:Base", "docker-image://alpine:3"),
        ("context:src", "local:src"),
        ("context:up", "input:up"),
        ("context:far", "https://example.com/x.tar"),
        ("local-sessionid:context", "abc"),
        ("build-arg:BUILDKIT_DOCKERFILE_CHECK", "skip=StageNameCasing,JSONArgsRecommended;error=true"),
    ]);
    let wanted = read(&said, &["network.host".to_owned()]).unwrap();
    let request = &wanted.request;
    assert_eq!(request.target, "app");
    assert_eq!(request.build_args["A"].as_deref(), Some("1=2"));
    assert_eq!(request.build_args["EMPTY"].as_deref(), Some(""));
    assert_eq!(request.labels["l"], "v");
    assert_eq!(request.no_cache, NoCache::Stages(["one", "two"].map(str::to_owned).into()));
    assert_eq!(request.platforms.len(), 2);
    assert_eq!(request.extra_hosts, ["a:10.0.0.1", "b:::1"]);
    assert_eq!(request.network, NetworkMode::None);
    assert_eq!(request.shm_size, Some(1 << 20));
    assert_eq!(request.ulimits[0], Ulimit { name: "nofile".to_owned(), soft: 10, hard: 20 });
    assert_eq!(request.ulimits[1], Ulimit { name: "core".to_owned(), soft: -1, hard: -1 });
    assert_eq!(request.hostname.as_deref(), Some("box"));
    assert!(request.pull && request.entitlements.host_network && !request.entitlements.insecure);
    assert_eq!(request.cache_from.len(), 2);
    assert!(request.checks_are_errors && request.skip_checks.contains("JSONArgsRecommended"));
    assert_eq!(wanted.named["base"], OtherContext::Image("alpine:3".to_owned()));
    assert_eq!(wanted.named["src"], OtherContext::Local("src".to_owned()));
    assert_eq!(wanted.named["up"], OtherContext::Input("up".to_owned()));
    assert_eq!(wanted.named["far"], OtherContext::Remote("https://example.com/x.tar".to_owned()));
    assert_eq!(wanted.local_sessions["context"], "abc");
}

#[test]
fn a_context_from_elsewhere_brings_its_dockerfile() {
    let upload = read(&attributes(&[("context", "http://buildkit-session/abc")]), &[]).unwrap();
    assert_eq!(upload.context, MainContext::Upload("/abc".to_owned()));
    assert_eq!(upload.request.dockerfile, DockerfileSource::Context("Dockerfile".to_owned()));
    let remote = [("context", "https://example.com/x.git#main"), ("dockerfilekey", "dockerfile")];
    let remote = read(&attributes(&remote), &[]).unwrap();
    assert_eq!(remote.context, MainContext::Remote("https://example.com/x.git#main".to_owned()));
    assert!(matches!(remote.request.dockerfile, DockerfileSource::Local { .. }));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (name, value) in [
        ("ulimit", "nofile"),
        ("ulimit", "nofile=x"),
        ("add-hosts", "a"),
        ("add-hosts", "a=b"),
        ("shm-size", "big"),
        ("platform", "a/b/c/d"),
        ("force-network-mode", "bridge"),
        ("cache-imports", "{"),
    ] {
        assert!(read(&attributes(&[(name, value)]), &[]).is_err(), "{name}={value}");
    }
}
