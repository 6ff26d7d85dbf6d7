//! The graph, the cache and what leaves a build, without RUN, which is tested with the whole daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use dray_build::{
    ArchiveOptions, Attestations, BoxFuture, BuildRequest, CacheImport, CacheMode, Client, ClientError,
    Compression, ContextSource, Credentials, DockerfileSource, Duplex, Event, LocalDirectory, LocalFilter,
    NamedContext, NoCache, NoClient, Platform, ProgressFn, Provenance,
};
use dray_image::Reference;
use parking_lot::Mutex;
use serde_json::Value;
use world::{World, cached, id, of, run};

/// A client whose directories are below one of this machine, and which notes what it is asked for.
struct Local {
    base: std::path::PathBuf,
    asked: Mutex<Vec<(String, LocalFilter)>>,
}

impl Client for Local {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        NoClient.secret(id)
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>> {
        NoClient.ssh(id)
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>> {
        NoClient.credentials(host)
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>> {
        self.asked.lock().push((name.to_owned(), filter.clone()));
        progress(1);
        Box::pin(std::future::ready(Ok(LocalDirectory::new(self.base.join(name), ()))))
    }
}

#[test]
fn directories_of_the_client_come_when_they_are_needed() {
    run(|| async {
        let world = World::new().await;
        world.files("l/ctx", &[("a.txt", "a"), ("b.txt", "b"), (".dockerignore", "*.md\n")]);
        world.files("l/file", &[("Dockerfile", "FROM scratch\nCOPY a.txt /\nCOPY --from=more x /y\n")]);
        world.files("l/more", &[("x", "of a named context")]);
        let client = Arc::new(Local { base: world.directory.path().join("l"), asked: Mutex::default() });
        let request = || BuildRequest {
            context: ContextSource::Local("ctx".to_owned()),
            dockerfile: DockerfileSource::Local { name: "file".to_owned(), path: String::new() },
            named_contexts: BTreeMap::from([("more".to_owned(), NamedContext::Local("more".to_owned()))]),
            ..BuildRequest::default()
        };
        let (built, events) = world.build_for(request(), Arc::clone(&client) as Arc<dyn Client>).await;
        let built = built.unwrap();
        assert_eq!(
            (world.read(&built, "a.txt"), world.read(&built, "y")),
            ("a".into(), "of a named context".into())
        );
        let asked = std::mem::take(&mut *client.asked.lock());
        let context = asked.iter().rev().find(|(name, _)| name == "ctx").unwrap();
        assert_eq!(
            (context.1.exclude.as_slice(), context.1.follow.as_slice()),
            (&["*.md".to_owned()][..], &["a.txt".to_owned()][..])
        );
        assert!(asked[0].0 == "file" && asked[0].1.include.contains(&"Dockerfile".to_owned()), "{asked:?}");
        let names: Vec<&str> = events
            .iter()
            .filter_map(|event| match event {
                Event::Vertex(vertex) if vertex.completed.is_some() => Some(vertex.name.as_str()),
                _ => None,
            })
            .collect();
        for name in [
            "[internal] load build definition from Dockerfile",
            "[internal] load build context",
            "[1/2] COPY a.txt /",
            "[2/2] COPY --from=more x /y",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::Status(status) if status.id == "transferring context:"))
        );
        // Without a COPY of it the context is never brought.
        world.files("l/file", &[("Dockerfile", "FROM scratch\nCOPY --from=more x /y\n")]);
        world.build_for(request(), Arc::clone(&client) as Arc<dyn Client>).await.0.unwrap();
        assert!(
            client
                .asked
                .lock()
                .iter()
                .all(|(name, filter)| name != "ctx" || filter.include == [".dockerignore"])
        );
        world.engine.close().await;
    });
}

#[test]
fn steps_are_found_by_content_and_not_by_origin() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a"), ("b", "b")]);
        let first = "FROM scratch\nCOPY a /a\nLABEL x=1\nCOPY b /b\n";
        let built = world.build_in(&context, first).await.unwrap();
        // What only describes is no reason to write files again.
        let (other, events) =
            world.build_for(of(&context, &first.replace("x=1", "x=2")), Arc::new(NoClient)).await;
        let other = other.unwrap();
        assert_eq!(cached(&events), 2);
        assert_ne!(id(&other), id(&built));
        assert_eq!(other.first().unwrap().layers, built.first().unwrap().layers);
        // Made anew with the same outcome, what follows is still found.
        let mut request = of(&context, "FROM scratch AS one\nCOPY a /a\nFROM one\nCOPY b /b\n");
        request.no_cache = NoCache::Stages(BTreeSet::from(["one".to_owned()]));
        let (_, events) = world.build_for(request, Arc::new(NoClient)).await;
        assert_eq!(cached(&events), 1);
        // A layer that is linked does not depend on what is below.
        let linked = |base: &str| format!("FROM scratch\nCOPY {base} /base\nCOPY --link b /deep/b\n");
        let one = world.build_in(&context, &linked("a")).await.unwrap();
        let two = world.build_in(&context, &linked("b")).await.unwrap();
        let last = |built: &dray_build::Built| built.first().unwrap().layers.last().unwrap().clone();
        assert_eq!(last(&one).diff_id, last(&two).diff_id);
        assert_ne!(last(&one).chain_id, last(&two).chain_id);
        assert_eq!((world.read(&two, "deep/b"), world.read(&two, "base")), ("b".into(), "b".into()));
        world.engine.close().await;
    });
}

#[test]
fn a_given_time_gives_the_same_digest_twice() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a"), ("d/b", "b")]);
        let request = || BuildRequest {
            no_cache: NoCache::All,
            source_date_epoch: Some(1_000_000_000),
            ..of(
                &context,
                "FROM scratch\nCOPY a /a\nWORKDIR /w/x\nCOPY d .\nCOPY <<EOF /t\ntext\nEOF\nLABEL a=b\n",
            )
        };
        let first = world.build(request()).await.unwrap();
        fs::File::open(context.join("a")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        let second = world.build(request()).await.unwrap();
        assert_eq!(id(&first), id(&second));
        assert_eq!(first.first().unwrap().config.created.as_deref(), Some("2001-09-09T01:46:40Z"));
        let mut archives = Vec::new();
        for built in [&first, &second] {
            let path = world.directory.path().join("out.tar");
            let file = fs::File::create(&path).unwrap();
            let exported = built.write_archive(ArchiveOptions::default(), file).await.unwrap();
            archives.push((exported.digest, fs::read(&path).unwrap()));
        }
        assert!(archives[0] == archives[1], "archives are the same to the byte");
        world.engine.close().await;
    });
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The files of an archive.
fn entries(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    });
    entries.collect()
}

#[test]
fn results_leave_as_archives_and_directories() {
    run(|| async {
        let world = World::new().await;
        let context = world.files(
            "c",
            &[
                ("a", "a"),
                (
                    "var/lib/dpkg/status",
                    "Package: p\nStatus: install ok installed\nVersion: 1.0\nArchitecture: all\n",
                ),
            ],
        );
        let request = BuildRequest {
            platforms: vec!["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()],
            attestations: Attestations { provenance: Some(Provenance::Maximal), sbom: true },
            build_args: BTreeMap::from([("X".to_owned(), Some("1".to_owned()))]),
            ..of(
                &context,
                "FROM scratch\nARG X\nARG TARGETARCH\nCOPY . /\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\n",
            )
        };
        let built = world.build(request).await.unwrap();
        assert_eq!(built.images.len(), 2);
        let path = world.directory.path().join("out.tar");
        let names = vec![Reference::parse("made:one").unwrap()];
        for compression in [Compression::Zstd, Compression::None, Compression::Gzip] {
            let options = ArchiveOptions { names: names.clone(), compression, docker: false };
            built.write_archive(options, fs::File::create(&path).unwrap()).await.unwrap();
        }
        let files = entries(&path);
        let blob = |digest: &Value| {
            &files[&format!("blobs/sha256/{}", digest.as_str().unwrap().trim_start_matches("sha256:"))]
        };
        let index = json(&files["index.json"]);
        assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "one");
        let inner = json(blob(&index["manifests"][0]["digest"]));
        let manifests = inner["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 4, "two images and what is said of them");
        assert_eq!(manifests[1]["platform"]["architecture"], "arm64");
        assert_eq!(manifests[2]["annotations"]["vnd.docker.reference.digest"], manifests[0]["digest"]);
        let said = json(blob(&manifests[2]["digest"]));
        let sbom = json(blob(&said["layers"][0]["digest"]));
        assert_eq!(sbom["predicateType"], "https://spdx.dev/Document");
        assert_eq!(sbom["predicate"]["packages"][0]["name"], "p");
        let provenance = json(blob(&said["layers"][1]["digest"]));
        assert_eq!(provenance["predicate"]["invocation"]["parameters"]["args"]["build-arg:X"], "1");
        assert_eq!(
            format!("sha256:{}", provenance["subject"][0]["digest"]["sha256"].as_str().unwrap()),
            manifests[0]["digest"].as_str().unwrap()
        );

        // What Docker loads.
        let one = world.build_in(&context, "FROM scratch\nCOPY a /a\nENV A=b\n").await.unwrap();
        let options = ArchiveOptions { names, docker: true, ..ArchiveOptions::default() };
        one.write_archive(options, fs::File::create(&path).unwrap()).await.unwrap();
        let loaded = world.engine.images().load(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!((&loaded[0].id, loaded[0].references[0].familiar().as_str()), (id(&one), "made:one"));
        // Bare files.
        one.write_files(fs::File::create(&path).unwrap()).await.unwrap();
        assert_eq!(entries(&path)["a"], b"a");
        let out = world.directory.path().join("out");
        built.write_directory(&out).await.unwrap();
        assert_eq!(fs::read_to_string(out.join("linux_arm64/arch")).unwrap(), "arm64\n");
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

#[test]
fn results_of_steps_travel() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a"), ("b", "b")]);
        let dockerfile =
            "FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /x\nCOPY b /b\nLABEL y=z\n";
        let request = BuildRequest { inline_cache: true, ..of(&context, dockerfile) };
        let built = world.build(request).await.unwrap();
        let inline = world.directory.path().join("inline.tar");
        let options = ArchiveOptions {
            docker: true,
            names: vec![Reference::parse("inline").unwrap()],
            ..Default::default()
        };
        built.write_archive(options, fs::File::create(&inline).unwrap()).await.unwrap();
        let (min, max) = (world.directory.path().join("min"), world.directory.path().join("max"));
        built.export_cache(CacheMode::Min, &min).await.unwrap();
        built.export_cache(CacheMode::Max, &max).await.unwrap();
        let layers = built.first().unwrap().layers.clone();
        drop(built);
        let count = |from: Option<CacheImport>| {
            let (world, context) = (&world, &context);
            async move {
                world.builder.prune(|_| true).await.unwrap();
                let mut request = of(context, dockerfile);
                request.cache_from.extend(from);
                let (built, events) = world.build_for(request, Arc::new(NoClient)).await;
                (cached(&events), built.unwrap())
            }
        };
        assert_eq!(count(None).await.0, 0);
        let directory = |path: &Path| Some(CacheImport::Directory(LocalDirectory::new(path, ())));
        assert_eq!(count(directory(&min)).await.0, 2, "the steps of the result");
        let (all, built) = count(directory(&max)).await;
        assert_eq!(all, 3, "and of what it was made with");
        let digests = |layers: &[dray_image::Layer]| {
            layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(digests(&built.first().unwrap().layers), digests(&layers));
        drop(built);
        world.engine.images().load(fs::File::open(&inline).unwrap()).unwrap();
        assert_eq!(count(Some(CacheImport::Image("inline".to_owned()))).await.0, 2);
        assert_eq!(
            count(directory(Path::new("/nonexistent"))).await.0,
            0,
            "a cache that is not there is none"
        );
        let images = world.engine.images().list().unwrap();
        assert_eq!(images.len(), 1, "a cache leaves no images: {images:?}");
        world.engine.close().await;
    });
}

#[test]
fn checks_say_what_a_dockerfile_should_not_do() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[(".dockerignore", "left/out\n"), ("a", "a")]);
        let check = |dockerfile: String| {
            let (builder, request) = (world.builder.clone(), of(&context, &dockerfile));
            async move {
                let (sender, _receiver) = tokio::sync::mpsc::channel(64);
                builder.check(request, Arc::new(NoClient), sender).await.unwrap()
            }
        };
        for (dockerfile, rules) in [
            ("FROM scratch AS Base", "StageNameCasing 1"),
            ("FROM scratch as base", "FromAsCasing 1"),
            ("FROM scratch\nRUN a \\\n\n b", "NoEmptyContinuation 3"),
            ("FROM scratch\nENV a=b\nrun x", "ConsistentInstructionCasing 3"),
            ("FROM scratch AS a\nFROM scratch AS a", "DuplicateStageName 2"),
            ("FROM scratch\nCMD x", "JSONArgsRecommended 2"),
            ("FROM scratch\nENTRYPOINT x", "JSONArgsRecommended 2"),
            ("FROM scratch\nSHELL [\"a\"]\nCMD x", ""),
            ("FROM scratch\nMAINTAINER x", "MaintainerDeprecated 2"),
            ("FROM scratch$NO", "UndefinedArgInFrom 1"),
            ("ARG NAME=scratch\nFROM $NMAE-x", "UndefinedArgInFrom 2"),
            ("FROM scratch\nWORKDIR $NO", "UndefinedVar 2"),
            ("FROM scratch\nARG A\nENV B=$A\nLABEL c=$B d=${E:-x}", ""),
            ("FROM scratch AS s\nARG A\nFROM s\nLABEL c=$A", ""),
            ("FROM scratch\nWORKDIR a", "WorkdirRelativePath 2"),
            ("FROM scratch\nWORKDIR /a\nWORKDIR b", ""),
            ("ARG T\nFROM x:$T", "InvalidDefaultArgInFrom 2"),
            ("FROM scratch\nENV a b\nLABEL c d", "LegacyKeyValueFormat 2,LegacyKeyValueFormat 3"),
            ("FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]", "MultipleInstructionsDisallowed 2"),
            ("FROM scratch AS context", "ReservedStageName 1"),
            ("FROM scratch\nARG TOKEN\nENV DB_PASSWORD=x", "SecretsUsedInArgOrEnv 2,SecretsUsedInArgOrEnv 3"),
            ("FROM --platform=$TARGETPLATFORM scratch", "RedundantTargetPlatform 1"),
            ("FROM --platform=linux/amd64 scratch", "FromPlatformFlagConstDisallowed 1"),
            ("FROM --platform=$BUILDPLATFORM scratch", ""),
            ("FROM scratch\nCOPY left/out /", ""),
            ("# check=experimental=all\nFROM scratch\nCOPY left/out /", "CopyIgnoredFile 3"),
            (
                "# check=experimental=InvalidDefinitionDescription\n# what\nFROM scratch AS a",
                "InvalidDefinitionDescription 3",
            ),
            ("FROM scratch\nEXPOSE 80/TCP 127.0.0.1:80:80", "ExposeProtoCasing 2,ExposeInvalidFormat 2"),
            ("# check=skip=MaintainerDeprecated\nFROM scratch\nMAINTAINER x", ""),
            ("# check=skip=all\nFROM scratch\nMAINTAINER x\nCMD x", ""),
            ("FROM scratch\nCOPY a /\nRUN echo $HOME $UNSET", ""),
        ] {
            let report = check(dockerfile.to_owned()).await;
            let found: Vec<String> =
                report.warnings.iter().map(|w| format!("{} {}", w.rule, w.range.start_line)).collect();
            assert_eq!(found.join(","), rules, "{dockerfile}");
            assert!(!report.is_failure && report.error.is_empty());
        }
        assert!(check("# check=error=true\nFROM scratch\nMAINTAINER x".to_owned()).await.is_failure);
        let report = check("FROM scratch\nRNU x".to_owned()).await;
        assert!(report.is_failure && report.error.contains("did you mean RUN?"), "{report:?}");
        world.engine.close().await;
    });
}

#[test]
fn dockerfiles_are_described() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[]);
        fs::create_dir_all(&context).unwrap();
        let dockerfile = "# VERSION of it\nARG VERSION=1\n\n# build makes it\nFROM scratch AS build\nARG MODE=fast\nRUN --mount=type=secret,id=s,required --mount=type=cache,target=/c --mount=type=ssh x\nFROM scratch AS unused\nARG NO\nFROM scratch\nCOPY --from=build /x /\n";
        let (sender, _receiver) = tokio::sync::mpsc::channel(64);
        let request = || of(&context, dockerfile);
        let targets = world.builder.targets(request(), Arc::new(NoClient), sender.clone()).await.unwrap();
        assert_eq!(targets.len(), 3);
        assert_eq!((targets[0].name.as_str(), targets[0].description.as_str()), ("build", "makes it"));
        assert!(targets[2].is_default && !targets[0].is_default);
        let outline = world.builder.outline(request(), Arc::new(NoClient), sender).await.unwrap();
        let arguments: Vec<&str> = outline.arguments.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(arguments, ["VERSION", "MODE"]);
        assert_eq!(outline.arguments[0].2, "of it");
        assert_eq!(
            (outline.secrets, outline.ssh),
            (vec![("s".to_owned(), true)], vec![("default".to_owned(), false)])
        );
        assert_eq!(outline.caches, ["/c"]);
        world.engine.close().await;
    });
}

#[test]
fn names_mean_contexts() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a")]);
        let more = world.files("more", &[("f", "more"), ("d/g", "g")]);
        let base = world.build_in(&context, "FROM scratch\nCOPY a /from-base\n").await.unwrap();
        let layout = world.directory.path().join("layout");
        base.write_layout(
            ArchiveOptions { names: vec![Reference::parse("b:one").unwrap()], ..Default::default() },
            &layout,
        )
        .await
        .unwrap();
        let named = [
            ("dir", NamedContext::Directory(LocalDirectory::new(&more, ()))),
            ("docker.io/library/base:latest", NamedContext::Built(Arc::new(base))),
            ("replaced", NamedContext::Directory(LocalDirectory::new(&more, ()))),
            (
                "oci",
                NamedContext::OciLayout {
                    directory: LocalDirectory::new(&layout, ()),
                    reference: Some("one".to_owned()),
                },
            ),
        ];
        let named: BTreeMap<_, _> =
            named.into_iter().map(|(name, context)| (name.to_owned(), context)).collect();
        let request = BuildRequest {
            named_contexts: named,
            ..of(
                &context,
                "FROM nothing AS replaced\nRUN false\nFROM base\nCOPY --from=dir f /one\nCOPY --from=replaced d /two\nCOPY --from=oci /from-base /three\nFROM dir AS last\nCOPY --from=1 /one /two/g /three /all/\n",
            )
        };
        let built = world.build(request).await.unwrap();
        assert!(
            world.engine.images().list().unwrap().is_empty(),
            "what only stood for a while is not listed"
        );
        for (path, content) in [("f", "more"), ("all/one", "more"), ("all/g", "g"), ("all/three", "a")] {
            assert_eq!(world.read(&built, path), content, "{path}");
        }
        world.engine.close().await;
    });
}

#[test]
fn cve_2024_23650_no_request_ends_the_program() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a")]);
        let platform = Platform { os: String::new(), architecture: "?".to_owned(), variant: "\0".to_owned() };
        for dockerfile in [
            "",
            "\0",
            "FROM \0",
            "FROM scratch\nCOPY \0 \0",
            "FROM scratch\nWORKDIR \0",
            "ARG =",
            "FROM a:b:c@d",
            "FROM scratch\nCOPY --chown=4294967296 a /",
            "FROM scratch\nCOPY --from=99 a /",
            "FROM scratch\nCOPY a /\nVOLUME [\"\\u0000\"]",
            "FROM scratch\nENV \u{202e}=1\nEXPOSE 99999",
            "FROM scratch\nHEALTHCHECK --retries=-1 CMD x",
        ] {
            for target in ["", "0", "99999999999999999999", "\u{0}"] {
                let request = BuildRequest {
                    target: target.to_owned(),
                    platforms: vec![platform.clone()],
                    build_args: BTreeMap::from([("\0".to_owned(), Some("$".to_owned()))]),
                    ..of(&context, dockerfile)
                };
                let _ = world.build(request).await;
            }
        }
        world.assert_nothing_left();
        world.engine.close().await;
    });
}
