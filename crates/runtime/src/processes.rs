//! Processes as the kernel tells of them (proc(5)). It knows numbers of processes, no containers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ticks of a second in the kernel's answers to user space (time(7): USER_HZ is 100 on all that we run on).
const TICKS: u64 = 100;
/// Bytes of a file of /proc that are read.
const LONGEST: u64 = 64 * 1024;

/// A process of a container, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// The number of its user.
    pub uid: u32,
    /// When it started.
    pub started: SystemTime,
    /// Processor time that it used.
    pub cpu_time: Duration,
    /// Its command line.
    pub command: String,
    /// Its name.
    pub name: String,
    /// Its state, as ps(1) shows it: `R`, `S`, `D`, …
    pub state: char,
    /// Its terminal, as major and minor number; both 0 without one.
    pub terminal: (u32, u32),
    /// Its process group.
    pub group: i64,
    /// Its session.
    pub session: i64,
    /// The number of its group of users.
    pub gid: u32,
    /// Its niceness.
    pub nice: i64,
    /// Its threads.
    pub threads: i64,
    /// Its address space, in bytes.
    pub virtual_size: u64,
    /// What of it is in memory, in bytes.
    pub resident_size: u64,
}

impl ProcessEntry {
    /// The process of this number; none when it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = read_proc(&format!("/proc/{pid}/stat"))?;
        // The name stands in brackets and may hold anything (proc_pid_stat(5)).
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1;
        let state = tail.trim_start().chars().next()?;
        let numbers: Vec<i64> =
            tail.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let signed = |number: usize| numbers.get(number - 4).copied().unwrap_or(0);
        let field = |number: usize| u64::try_from(signed(number)).unwrap_or(0);
        let terminal = u32::try_from(signed(7)).unwrap_or(0);
        let owner = fs::metadata(format!("/proc/{pid}")).ok()?;
        let boot = read_proc("/proc/stat")?
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())?;
        let started_ms = field(22).saturating_mul(1000) / TICKS;
        let command = read_proc(&format!("/proc/{pid}/cmdline"))?;
        let words: Vec<&str> = command.split('\0').filter(|word| !word.is_empty()).collect();
        Some(Self {
            pid,
            parent: i32::try_from(field(4)).unwrap_or(0),
            uid: owner.uid(),
            started: UNIX_EPOCH.checked_add(Duration::from_secs(boot) + Duration::from_millis(started_ms))?,
            cpu_time: Duration::from_millis((field(14) + field(15)).saturating_mul(1000) / TICKS),
            command: if words.is_empty() { format!("[{name}]") } else { words.join(" ") },
            name: name.to_owned(),
            state,
            terminal: ((terminal >> 8) & 0xfff, (terminal & 0xff) | ((terminal >> 12) & 0xfff00)),
            group: signed(5),
            session: signed(6),
            gid: owner.gid(),
            nice: signed(19),
            threads: signed(20),
            virtual_size: field(23),
            resident_size: resident_size(pid),
        })
    }

    /// The name of its terminal, `?` without one.
    pub fn terminal_name(&self) -> String {
        match self.terminal {
            // Major numbers of pseudo terminals (the kernel's devices.txt).
            (major @ 136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
            (4, minor) => format!("tty{minor}"),
            _ => "?".to_owned(),
        }
    }

    /// Time since it started, at least a second.
    pub fn age(&self) -> Duration {
        let age = SystemTime::now().duration_since(self.started).unwrap_or_default();
        age.max(Duration::from_secs(1))
    }

    /// Its share of a processor in percent, as the column C of ps(1) has it.
    pub fn processor_share(&self) -> u64 {
        (self.cpu_time.as_secs() * 100 / self.age().as_secs()).min(99)
    }
}

fn read_proc(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LONGEST), &mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bytes of a process that are in memory; none of a thread of the kernel.
fn resident_size(pid: i32) -> u64 {
    let status = read_proc(&format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_an_ended_one_is_not() {
        let own = ProcessEntry::of(std::process::id() as i32).unwrap();
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        assert!(own.threads >= 1 && own.resident_size > 0 && "RS".contains(own.state), "{own:?}");
        assert!(own.started <= SystemTime::now() && own.age() < Duration::from_secs(3600));
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(ProcessEntry::of(child.id() as i32), None);
    }

    #[test]
    fn terminals_have_names() {
        let own = ProcessEntry::of(std::process::id() as i32).unwrap();
        for (terminal, name) in [((0, 0), "?"), ((136, 3), "pts/3"), ((137, 1), "pts/257"), ((4, 1), "tty1")]
        {
            assert_eq!(ProcessEntry { terminal, ..own.clone() }.terminal_name(), name);
        }
    }
}
