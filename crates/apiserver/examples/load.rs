//! Measures the API in the same process: durable creates of pods by 16 at a time, GET, and LIST.

use std::time::{Duration, Instant};

use dray_apiserver::{ApiServer, Config, User};
use http_body_util::{BodyExt as _, Full};
use tower_service::Service as _;

const PODS: usize = 5000;
const WRITERS: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".into()))?;
    let start = Instant::now();
    let server = ApiServer::open(Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: "127.0.0.1:6443".parse()?,
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    })
    .await?;
    report("open an empty directory", start.elapsed(), 1);
    let start = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let mut service = server.service(User::component("load"));
        tokio::spawn(async move {
            for number in (writer..PODS).step_by(WRITERS) {
                let padding = "x".repeat(1000);
                let body = format!(
                    "{{\"metadata\":{{\"name\":\"p-{number}\",\"annotations\":{{\"a\":\"{padding}\"}}}},\
                     \"spec\":{{\"containers\":[{{\"name\":\"c\",\"image\":\"i:1\"}}]}}}}"
                );
                let request = http::Request::post("/api/v1/namespaces/default/pods").body(Full::from(body));
                let Ok(request) = request else { return };
                let Ok(answer) = service.call(request).await;
                assert_eq!(answer.status(), 201);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await?;
    }
    report("create a pod, 16 at a time", start.elapsed(), PODS);
    let mut service = server.service(User::component("load"));
    for (what, path, times) in
        [("get a pod", "/api/v1/namespaces/default/pods/p-7", 2000), ("list all pods", "/api/v1/pods", 20)]
    {
        let start = Instant::now();
        for _ in 0..times {
            let Ok(answer) =
                service.call(http::Request::get(path).body(Full::<bytes::Bytes>::default())?).await;
            let _ = answer.into_body().collect().await;
        }
        report(what, start.elapsed(), times);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "it is a program that prints")]
fn report(what: &str, time: Duration, times: usize) {
    let each = time.as_secs_f64() / times as f64;
    println!("{what}: {:.3} ms each, {:.0}/s", each * 1000.0, 1.0 / each);
}
