//! Load for an API server, and what it bears: `load KUBECONFIG WHAT NUMBERS...`, one JSON object on standard output.
//!
//! - `create COUNT CONNECTIONS BYTES`: pods of so many bytes, which nobody places.
//! - `get COUNT CONNECTIONS`: one of them.
//! - `list TIMES`: all of them.
//! - `watch WATCHERS UPDATES`: how long after the last answer all watchers have seen every update.
#![forbid(unsafe_code)]

mod connection;

use std::error::Error;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use connection::{Connection, Place};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, what, numbers @ ..] = words.as_slice() else {
        return Err("usage: load KUBECONFIG create|get|list|watch NUMBERS...".into());
    };
    let place = Place::read(&std::fs::read_to_string(kubeconfig)?)?;
    let numbers =
        numbers.iter().map(|number| number.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
    let told = match (what.as_str(), numbers.as_slice()) {
        ("create", [count, connections, bytes]) => create(&place, *count, *connections, *bytes)?,
        ("get", [count, connections]) => get(&place, *count, *connections)?,
        ("list", [times]) => list(&place, *times)?,
        ("watch", [watchers, updates]) => watch(&place, *watchers, *updates)?,
        _ => {
            return Err(
                format!("{what:?} with {} numbers is nothing that can be measured", numbers.len()).into()
            );
        }
    };
    print(&told);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "it is a program that prints")]
fn print(told: &Value) {
    println!("{told}");
}

fn request(method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A pod that nobody places, so that nothing but the server and its store works.
fn pod(name: &str, bytes: usize) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "annotations": { "filling": "" } },
        "spec": { "schedulerName": "nobody", "containers": [{ "name": "c", "image": "registry.example.com/web:1" }] },
    });
    let missing = bytes.saturating_sub(pod.to_string().len());
    pod["metadata"]["annotations"]["filling"] = json!("x".repeat(missing));
    pod.to_string()
}

/// Rate and quantiles of what took so long each, in microseconds.
fn summary(mut times: Vec<Duration>, whole: Duration) -> Value {
    times.sort_unstable();
    let at =
        |part: usize| times.get(times.len() * part / 100).or(times.last()).map_or(0, Duration::as_micros);
    json!({ "rate": times.len() as f64 / whole.as_secs_f64(), "p50": at(50), "p99": at(99) })
}

/// Has `connections` threads do `count` things together.
fn shared(
    place: &Place,
    count: usize,
    connections: usize,
    work: impl Fn(&mut Connection, usize) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<Value> {
    let work = Arc::new(work);
    let ready = Arc::new(Barrier::new(connections + 1));
    let threads: Vec<_> = (0..connections)
        .map(|first| {
            let (work, ready, place) = (Arc::clone(&work), Arc::clone(&ready), place.clone());
            thread::spawn(move || -> std::result::Result<Vec<Duration>, String> {
                let connected = place.connect().map_err(|error| error.to_string());
                ready.wait();
                let mut connection = connected?;
                let mut times = Vec::with_capacity(count / connections + 1);
                for number in (first..count).step_by(connections) {
                    let begin = Instant::now();
                    work(&mut connection, number).map_err(|error| error.to_string())?;
                    times.push(begin.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    ready.wait();
    let begin = Instant::now();
    let mut times = Vec::with_capacity(count);
    for thread in threads {
        times.extend(thread.join().map_err(|_| "a thread broke")??);
    }
    Ok(summary(times, begin.elapsed()))
}

fn create(place: &Place, count: usize, connections: usize, bytes: usize) -> Result<Value> {
    // Names that no call before has used.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    shared(place, count, connections, move |connection, number| {
        let body = pod(&format!("load-{run}-{number}"), bytes);
        connection.ask(&request("POST", PODS, "application/json", &body), 201).map(drop)
    })
}

/// Makes the pod that is read and changed.
fn one(connection: &mut Connection) -> Result<()> {
    let made = connection.ask(&request("POST", PODS, "application/json", &pod("one", 2048)), 201);
    match made {
        Err(error) if error.to_string().contains("409") => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

fn get(place: &Place, count: usize, connections: usize) -> Result<Value> {
    one(&mut place.connect()?)?;
    let asked = request("GET", &format!("{PODS}/one"), "application/json", "");
    shared(place, count, connections, move |connection, _| connection.ask(&asked, 200).map(drop))
}

fn list(place: &Place, times: usize) -> Result<Value> {
    let mut connection = place.connect()?;
    let asked = request("GET", PODS, "application/json", "");
    let mut bytes = connection.ask(&asked, 200)?;
    let mut all = Vec::with_capacity(times);
    let begin = Instant::now();
    for _ in 0..times {
        let begin = Instant::now();
        bytes = connection.ask(&asked, 200)?;
        all.push(begin.elapsed());
    }
    let mut told = summary(all, begin.elapsed());
    told["bytes"] = json!(bytes);
    Ok(told)
}

fn watch(place: &Place, watchers: usize, updates: usize) -> Result<Value> {
    let mut writer = place.connect()?;
    one(&mut writer)?;
    let ready = Arc::new(Barrier::new(watchers + 1));
    let threads: Vec<_> = (0..watchers)
        .map(|_| {
            let (place, ready) = (place.clone(), Arc::clone(&ready));
            thread::spawn(move || -> std::result::Result<Instant, String> {
                let path = format!("{PODS}?watch=true&fieldSelector=metadata.name%3Done");
                let begun = || -> Result<Connection> {
                    let mut connection = place.connect()?;
                    connection.watch(&request("GET", &path, "application/json", ""))?;
                    // The pod as it is.
                    connection.events()?;
                    Ok(connection)
                };
                let begun = begun().map_err(|error| error.to_string());
                ready.wait();
                let mut connection = begun?;
                let mut seen = 0;
                while seen < updates {
                    seen += connection.events().map_err(|error| error.to_string())?;
                }
                Ok(Instant::now())
            })
        })
        .collect();
    ready.wait();
    let begin = Instant::now();
    for number in 0..updates {
        let body = json!({ "metadata": { "labels": { "number": number.to_string() } } }).to_string();
        let patch = request("PATCH", &format!("{PODS}/one"), "application/merge-patch+json", &body);
        writer.ask(&patch, 200)?;
    }
    let answered = Instant::now();
    let mut last = answered;
    for thread in threads {
        last = last.max(thread.join().map_err(|_| "a watcher broke")??);
    }
    Ok(json!({
        "events": watchers * updates, "late": (last - answered).as_secs_f64() * 1000.0,
        "rate": (watchers * updates) as f64 / (last - begin).as_secs_f64(),
    }))
}
