use super::*;

fn stage(source: &str) -> Vec<Kind> {
    let mut file = parse(format!("FROM x\n{source}").as_bytes()).unwrap();
    file.stages.remove(0).instructions.into_iter().map(|instruction| instruction.kind).collect()
}

fn one(source: &str) -> Kind {
    stage(source).remove(0)
}

fn message(source: &str) -> String {
    parse(source.as_bytes()).unwrap_err().to_string()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn stages_have_names_and_arguments_before_them() {
    let file = parse(b"ARG V=1 W\nFROM --platform=linux/amd64 a:$V AS Build\nRUN x\nfrom build\n").unwrap();
    assert_eq!(file.arguments[0].kind, Kind::Arg(vec![("V".into(), Some("1".into())), ("W".into(), None)]));
    let first = &file.stages[0];
    assert_eq!((first.base.as_str(), first.name.as_deref()), ("a:$V", Some("build")));
    assert_eq!(first.platform.as_deref(), Some("linux/amd64"));
    assert_eq!((file.stages[1].base.as_str(), file.stages[1].line), ("build", 4));
}

#[test]
fn commands_have_two_forms() {
    assert_eq!(one("CMD [\"a\", \"b c\"]"), Kind::Cmd(Command::Exec(vec!["a".into(), "b c".into()])));
    assert_eq!(one("CMD a 'b c'"), Kind::Cmd(Command::Shell("a 'b c'".into())));
    assert_eq!(one("CMD ['a']"), Kind::Cmd(Command::Shell("['a']".into())));
    assert_eq!(one("ENTRYPOINT []"), Kind::Entrypoint(Command::Exec(vec![])));
    let run = |command, network: Option<&str>| {
        Kind::Run(Run { command, network: network.map(str::to_owned), security: None, mounts: Vec::new() })
    };
    assert_eq!(one("RUN --network=none a"), run(Command::Shell("a".into()), Some("none")));
    let Kind::Run(run_with) =
        one("RUN --mount=type=cache,target=/a --mount=dst=/b,from=c --security=insecure x")
    else {
        panic!()
    };
    assert_eq!((run_with.mounts.len(), run_with.security.as_deref()), (2, Some("insecure")));
    assert_eq!((run_with.mounts[1].kind.as_str(), run_with.mounts[1].get("target")), ("bind", Some("/b")));
    let script = lines::Heredoc { name: "EOF".into(), content: "#!/bin/x\na\n".into(), expand: true };
    assert_eq!(one("RUN <<EOF\n#!/bin/x\na\nEOF"), run(Command::Script(script), None));
    assert_eq!(one("RUN <<EOF\na\nb\nEOF\n"), run(Command::Shell("a\nb\n".into()), None));
    assert_eq!(one("RUN cat <<EOF >x\na\nEOF\n"), run(Command::Shell("cat <<EOF >x\na\nEOF".into()), None));
    assert_eq!(one("SHELL [\"/bin/bash\"]"), Kind::Shell(vec!["/bin/bash".into()]));
}

#[test]
fn pairs_have_two_forms() {
    assert_eq!(
        one("ENV a=1 b=\"x y\" c=x\\ y"),
        Kind::Env(pairs(&[("a", "1"), ("b", "\"x y\""), ("c", "x\\ y")]))
    );
    assert_eq!(one("ENV a  b c=d"), Kind::Env(pairs(&[("a", "b c=d")])));
    assert_eq!(one("LABEL a.b='x y'"), Kind::Label(pairs(&[("a.b", "'x y'")])));
}

#[test]
fn copies_have_sources_and_a_destination() {
    let expected = Transfer {
        from: Some("0".into()),
        chown: Some("1:2".into()),
        sources: vec!["a".into(), "b*".into()],
        destination: "/c/".into(),
        ..Transfer::default()
    };
    assert_eq!(one("COPY --from=0 --chown=1:2 a b* /c/"), Kind::Copy(expected));
    let Kind::Add(json) = one("ADD [\"a b\", \"/c\"]") else { panic!("no ADD") };
    assert_eq!(json.sources, ["a b"]);
    let Kind::Copy(text) = one("COPY <<EOF f /c/\nx\nEOF") else { panic!("no COPY") };
    assert_eq!((text.texts[0].name.as_str(), text.sources.as_slice()), ("EOF", &["f".to_owned()][..]));
}

#[test]
fn health_checks_have_times() {
    let Kind::Healthcheck(check) = one("HEALTHCHECK --interval=1m30s --retries=3 CMD [\"x\"]") else {
        panic!("no HEALTHCHECK")
    };
    assert_eq!(check.interval, Duration::from_secs(90));
    assert_eq!((check.retries, check.command), (3, Some(Command::Exec(vec!["x".into()]))));
    assert_eq!(one("HEALTHCHECK NONE"), Kind::Healthcheck(Healthcheck::default()));
}

#[test]
fn errors_are_dockers() {
    for (source, expected) in [
        (
            "FROM x\n\nFRM y",
            "dockerfile parse error on line 3: unknown instruction: FRM (did you mean FROM?)",
        ),
        ("FROM x\nXYZZY", "dockerfile parse error on line 2: unknown instruction: XYZZY"),
        ("RUN x", "dockerfile parse error on line 1: no build stage in current context"),
        ("ARG a", "dockerfile parse error on line 1: no build stage in current context"),
        ("# nothing", "dockerfile parse error on line 1: file with no instructions"),
        ("FROM", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM x\nCOPY a",
            "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined.",
        ),
        (
            "FROM x\nCOPY --form=a b c",
            "dockerfile parse error on line 2: unknown flag: --form (did you mean from?)",
        ),
        ("FROM x\nCOPY --from a c", "dockerfile parse error on line 2: missing a value on flag: from"),
        ("FROM x\nENV a", "dockerfile parse error on line 2: ENV must have two arguments"),
        (
            "FROM x\nENV a=1 b",
            "dockerfile parse error on line 2: Syntax error - can't find = in \"b\". Must be of the form: name=value",
        ),
        ("FROM x\nRUN", "dockerfile parse error on line 2: RUN requires at least one argument"),
        (
            "FROM x\nCMD [1]",
            "dockerfile parse error on line 2: when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "FROM x\nSHELL x",
            "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
        ),
        (
            "FROM x\nONBUILD FROM y",
            "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM x\nCOPY https://x/y /z",
            "dockerfile parse error on line 2: source can't be a URL for COPY: https://x/y",
        ),
        (
            "FROM x\nRUN --mount=type=cash,target=/x y",
            "dockerfile parse error on line 2: unsupported mount type \"cash\" (did you mean cache?)",
        ),
        (
            "FROM x\nRUN --mount=type=cache,tarrget=/x y",
            "dockerfile parse error on line 2: unexpected key 'tarrget' in 'tarrget=/x' (did you mean target?)",
        ),
        (
            "FROM x\nRUN --network=hst y",
            "dockerfile parse error on line 2: unknown value for --network: hst (default, none and host are known)",
        ),
        (
            "FROM x\nCOPY --link=maybe a b",
            "dockerfile parse error on line 2: expecting boolean value for flag link, not: maybe",
        ),
        (
            "FROM x\nADD --checksum=md5:1 https://x/y /z",
            "dockerfile parse error on line 2: invalid checksum \"md5:1\": write it as sha256:DIGEST",
        ),
        (
            "FROM x\nHEALTHCHECK --interval=x CMD y",
            "dockerfile parse error on line 2: invalid duration for --interval: x",
        ),
    ] {
        assert_eq!(message(source), expected);
    }
    let error = parse(b"FROM x\n  FRM y").unwrap_err();
    assert_eq!((error.line, error.column), (2, 3));
    assert_eq!(error.excerpt(), " 2 |   FRM y\n   |   ^^^");
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = parse(&bytes).map_err(|error| error.excerpt());
    }

    #[test]
    fn never_panics_on_what_looks_right(
        keyword in proptest::sample::select(KEYWORDS),
        rest in "[-<\\[\\]\"'=$\\\\{}a-z: \n]*",
    ) {
        let _ = parse(format!("FROM x\n{keyword} {rest}").as_bytes()).map_err(|error| error.excerpt());
        let _ = parse_trigger(&format!("{keyword} {rest}"));
    }
}

#[test]
fn spans_are_gos() {
    assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
    assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
    for text in ["", "5", "h", "5x", "99999999999999999999999h"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}
