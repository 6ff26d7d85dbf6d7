//! What an agent counts, read from its `/metrics/resource`, a text as Prometheus reads it
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). It comes from a node and is bounded and checked.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// The longest text that is read, in bytes.
pub(crate) const LONGEST: usize = 16 * 1024 * 1024;

/// Counters of one container, or of a whole node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counters {
    /// Processor time in seconds.
    pub(crate) cpu: f64,
    /// When that was counted.
    pub(crate) read: Timestamp,
    /// Memory in bytes without what can be given back at once.
    pub(crate) memory: f64,
    /// When it started, in seconds; 0 when that is not told.
    pub(crate) started: f64,
}

/// Which container: namespace, pod, container.
pub(crate) type Place = (String, String, String);

/// What an agent tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) node: Counters,
    pub(crate) containers: BTreeMap<Place, Counters>,
}

/// A sample: its name, its labels, its value, and when it was counted.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
    at: Option<Timestamp>,
}

impl<'a> Sample<'a> {
    /// Reads a line; none for a comment, or for one that makes no sense.
    fn read(line: &'a str) -> Option<Sample<'a>> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                rest = rest.trim_start_matches([',', ' ']);
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.push((label, value));
                rest = after;
            }
        }
        let mut words = rest.split_whitespace();
        let value = words.next()?.parse::<f64>().ok().filter(|value| value.is_finite())?;
        let at = words.next().and_then(|at| Timestamp::from_millisecond(at.parse().ok()?).ok());
        Some(Sample { name, labels, value, at })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn place(&self) -> Option<Place> {
        let label = |name| self.label(name).map(str::to_owned);
        Some((label("namespace")?, label("pod")?, label("container")?))
    }
}

/// A quoted text up to its end, and what comes after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// Reads what an agent tells. What makes no sense is passed over.
pub(crate) fn read(text: &str, now: Timestamp) -> Told {
    let mut told = Told::default();
    for sample in text.lines().filter_map(Sample::read) {
        let (field, of_node) = match sample.name {
            "container_cpu_usage_seconds_total" => (0, false),
            "container_memory_working_set_bytes" => (1, false),
            "container_start_time_seconds" => (2, false),
            "node_cpu_usage_seconds_total" => (0, true),
            "node_memory_working_set_bytes" => (1, true),
            _ => continue,
        };
        let counters = if of_node {
            &mut told.node
        } else {
            let Some(place) = sample.place() else { continue };
            told.containers.entry(place).or_default()
        };
        match field {
            0 => (counters.cpu, counters.read) = (sample.value, sample.at.unwrap_or(now)),
            1 => counters.memory = sample.value,
            _ => counters.started = sample.value,
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_nonsense_is_passed_over() {
        let text = "\
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\\\"q\"} 1.5 1767225600500
container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\\\"q\",} 2.048e3 1767225600500
container_cpu_usage_seconds_total{container=\"a\"} 1
container_cpu_usage_seconds_total{container=\"a
container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"p\"} NaN
node_cpu_usage_seconds_total 9
node_memory_working_set_bytes 7 1
other{x=\"y\"} 3
garbage
";
        let now: Timestamp = "2026-01-01T00:00:07Z".parse().unwrap();
        let told = read(text, now);
        let place = ("n".to_owned(), "p\"q".to_owned(), "a".to_owned());
        let counted = Counters {
            cpu: 1.5,
            read: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            memory: 2048.0,
            started: 0.0,
        };
        assert_eq!(told.containers, BTreeMap::from([(place, counted)]));
        assert_eq!(told.node, Counters { cpu: 9.0, read: now, memory: 7.0, started: 0.0 });
    }
}
