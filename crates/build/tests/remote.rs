//! Contexts and sources of other machines: real git servers and a web server on the loopback address.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use dray_build::Error;
use world::git::{daemon, git, repository};
use world::{World, of, of_address, run};

#[test]
fn builds_from_a_git_repository() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        let commit = repository(&base);
        let _daemon = daemon(&base);
        let built = world.build(of_address("git://127.0.0.1/x.git")).await.unwrap();
        assert_eq!(world.read(&built, "sub/deep/file"), "deeper");
        assert!(
            world.read(&built, "large1").ends_with("one") && world.read(&built, "large2").ends_with("two")
        );
        assert!(!world.exists(&built, ".git"));
        let root = built.open(built.first().unwrap()).unwrap().unwrap();
        assert_eq!(root.stat("tool").unwrap().st_mode & 0o777, 0o755);
        assert_eq!(root.read_link("link").unwrap(), Path::new("sub/deep/file"));
        for (fragment, expected) in [
            ("v1:sub", "deep"),
            ("other:sub", "deeper"),
            (&format!("{commit}:sub"), "deeper"),
            ("refs/tags/v1:sub", "deep"),
        ] {
            let built = world.build(of_address(&format!("git://127.0.0.1/x.git#{fragment}"))).await.unwrap();
            assert_eq!(world.read(&built, "of-sub"), expected, "{fragment}");
        }
        // As a source of ADD, with and without its own directory.
        let context = world.files("c", &[("a", "a")]);
        let dockerfile = format!(
            "FROM scratch\nADD git://127.0.0.1/x.git#v1 /plain/\nADD --keep-git-dir=true git://127.0.0.1/x.git /kept/\nADD --checksum={commit} git://127.0.0.1/x.git#other /checked\n"
        );
        let built = world.build_in(&context, &dockerfile).await.unwrap();
        assert_eq!(world.read(&built, "plain/sub/deep/file"), "deep");
        assert_eq!(world.read(&built, "kept/.git/HEAD").trim(), commit);
        let out = world.directory.path().join("out");
        built.write_directory(&out).await.unwrap();
        assert_eq!(git(&out.join("kept"), &["log", "--format=%s"]), "two", "git takes it as a repository");
        let wrong = "FROM scratch\nADD --checksum=0123456789 git://127.0.0.1/x.git /x\n";
        let error = world.build_in(&context, wrong).await.unwrap_err().chain();
        assert!(error.contains("expected checksum to match 0123456789"), "{error}");
        drop(built);
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

#[test]
fn cve_2019_13139_and_cve_2026_33748_addresses_are_no_options_and_no_paths() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        repository(&base);
        let _daemon = daemon(&base);
        let victim = world.directory.path().join("victim");
        for fragment in [
            format!("--upload-pack=touch {}", victim.display()),
            "main --depth=5".to_owned(),
            "-q:sub".to_owned(),
            format!("$(touch {})", victim.display()),
            "main\ncommand=x".to_owned(),
            "../../main".to_owned(),
        ] {
            let result = world.build(of_address(&format!("git://127.0.0.1/x.git#{fragment}"))).await;
            let error = result.unwrap_err().chain();
            assert!(
                error.contains("it has no branch and no tag") || error.contains("cannot fetch"),
                "{error}"
            );
        }
        assert!(!victim.exists());
        for directory in ["../..", "/etc", "out", "sub/../../..", "link", "none"] {
            let result = world.build(of_address(&format!("git://127.0.0.1/x.git#main:{directory}"))).await;
            let error = result.unwrap_err().chain();
            assert!(error.contains("it has no directory"), "{directory}: {error}");
        }
        let error = world.build(of_address("git@127.0.0.1:x.git")).await.unwrap_err().chain();
        assert!(error.contains("the client forwards no key agent: build with --ssh default"), "{error}");
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

#[test]
fn cve_2026_33747_nothing_is_read_or_written_outside_of_the_context() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a"), ("sub/Dockerfile", "FROM scratch\nCOPY a /\n")]);
        std::os::unix::fs::symlink("/etc/hostname", context.join("outside")).unwrap();
        fs::write(world.directory.path().join("Dockerfile"), "FROM scratch\nCOPY a /\n").unwrap();
        for path in ["../Dockerfile", "/etc/passwd", "outside", "sub/../../Dockerfile"] {
            let request = dray_build::BuildRequest {
                dockerfile: dray_build::DockerfileSource::Context(path.to_owned()),
                ..dray_build::BuildRequest::of_directory(&context)
            };
            let error = world.build(request).await.unwrap_err();
            assert!(matches!(error.inner(), Error::NoDockerfile { .. }), "{path}: {error:?}");
        }
        world.engine.close().await;
    });
}

#[test]
fn builds_from_web_servers() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        repository(&base);
        let context =
            world.files("context", &[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "of the archive")]);
        let mut archive =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        archive.append_dir_all(".", &context).unwrap();
        let archive = archive.into_inner().unwrap().finish().unwrap();
        let files = HashMap::from([
            ("/context.tar.gz", archive),
            ("/Dockerfile", b"FROM scratch\nCOPY <<EOF /x\nby address\nEOF\n".to_vec()),
            ("/file.txt", b"fetched".to_vec()),
        ]);
        let server = world::web::serve(&base, files).await;
        for address in [format!("{server}/context.tar.gz"), format!("{server}/redirect/context.tar.gz")] {
            let built = world.build(of_address(&address)).await.unwrap();
            assert_eq!(world.read(&built, "a"), "of the archive");
        }
        let built = world.build(of_address(&format!("{server}/Dockerfile"))).await.unwrap();
        assert_eq!(world.read(&built, "x"), "by address\n");
        let built = world.build(of_address(&format!("{server}/git/x.git#v1:sub"))).await.unwrap();
        assert_eq!(world.read(&built, "of-sub"), "deep", "git over HTTP");
        let error = world.build(of_address(&format!("{server}/none"))).await.unwrap_err().chain();
        assert!(error.contains("invalid response status 404: check the address"), "{error}");

        let digest = "sha256:a60bdb71d02d7bd5bb64d6c0bb24ed6b50aab8b6cd1e9b1bc1ff7e2e2f5e3a34";
        let dockerfile = format!("FROM scratch\nADD --checksum={digest} {server}/file.txt /x\n");
        let error = world.build_in(&context, &dockerfile).await.unwrap_err().chain();
        assert!(error.contains("digest mismatch: it is sha256:"), "{error}");
        let actual = error.split("it is ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let dockerfile = format!(
            "FROM scratch\nADD --checksum={actual} {server}/file.txt /x\nADD --chmod=644 {server}/file.txt /d/\nADD --unpack {server}/context.tar.gz /un/\nADD {server}/context.tar.gz /kept\n"
        );
        let built = world.build_in(&context, &dockerfile).await.unwrap();
        assert_eq!(
            (world.read(&built, "x"), world.read(&built, "d/file.txt")),
            ("fetched".into(), "fetched".into())
        );
        assert_eq!(world.read(&built, "un/a"), "of the archive");
        let root = built.open(built.first().unwrap()).unwrap().unwrap();
        let (x, d) = (root.stat("x").unwrap(), root.stat("d/file.txt").unwrap());
        assert_eq!((x.st_mode & 0o777, d.st_mode & 0o777, x.st_mtime), (0o600, 0o644, 1_000_000_000));
        // The same bytes are the same step.
        let (again, events) =
            world.build_for(of(&context, &dockerfile), Arc::new(dray_build::NoClient)).await;
        assert_eq!((world::id(&again.unwrap()), world::cached(&events)), (world::id(&built), 4));
        drop((built, root));
        world.assert_nothing_left();
        world.engine.close().await;
    });
}
