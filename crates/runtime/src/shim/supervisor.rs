//! The shim's loop: streams, clients and the end of the process, on one thread with poll(2).

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::connection::{Connection, Stage};
use super::launcher::write_json;
use super::log::Log;
use super::stdio::{Chunk, Output, ProcessStdio, Stream};
use crate::Process;
use crate::cgroup::Cgroup;
use crate::init::channel::{Channel, FromChild};
use crate::launch::TerminalSize;
use crate::protocol::{Exit, Failure, FailureKind, Reply, Request, State, Status};
use crate::timestamp::rfc3339;

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;

/// Clients at once; more wait in the socket's queue.
const MAX_CLIENTS: usize = 256;

/// After the process has ended: how long silent streams are listened to, which others may still hold.
const LINGER: Duration = Duration::from_millis(250);

/// After the process has ended: how long clients may take to receive what is left for them.
const FAREWELL: Duration = Duration::from_secs(10);

/// Everything that a launch has made.
pub(super) struct Parts {
    pub(super) process: Process,
    pub(super) channel: Channel,
    pub(super) listener: UnixListener,
    pub(super) signals: OwnedFd,
    pub(super) stdio: ProcessStdio,
    pub(super) stdin_once: bool,
    pub(super) log: Option<Log>,
    pub(super) cgroup: Option<Cgroup>,
    /// For a container's first process, whether it has a pid namespace of its own; None for an exec.
    pub(super) own_pid_namespace: Option<bool>,
    pub(super) socket: PathBuf,
    pub(super) exit_file: PathBuf,
}

/// The state of a shim.
pub(super) struct Supervisor {
    parts: Parts,
    /// Closed (None) once the program runs or could not be run.
    starting: bool,
    started: bool,
    channel_open: bool,
    connections: Vec<Connection>,
    /// How the process ended, and when that was noticed.
    ended: Option<(Exit, Instant)>,
    /// When the last output came after the end.
    last_output: Instant,
    /// Clients have been told.
    announced: Option<Instant>,
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Signals,
    Listener,
    Channel,
    Output(Stream),
    Input,
    Client(usize),
}

impl Supervisor {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            starting: false,
            started: false,
            channel_open: true,
            connections: Vec::new(),
            ended: None,
            last_output: Instant::now(),
            announced: None,
        }
    }

    pub(super) fn process(&self) -> Process {
        self.parts.process
    }

    /// Runs until the process has ended and everybody knows. The result is the shim's exit code.
    pub(super) fn run(mut self) -> i32 {
        let mut buffer = vec![0u8; CHUNK];
        let mut ready: Vec<(Source, PollFlags)> = Vec::new();
        loop {
            self.settle();
            if self.announced.is_some_and(|since| self.connections.is_empty() || since.elapsed() > FAREWELL) {
                break;
            }
            ready.clear();
            if self.wait_for_events(&mut ready).is_err() {
                return 74;
            }
            for &(source, flags) in &ready {
                self.handle(source, flags, &mut buffer);
            }
            self.connections.retain(|connection| !connection.gone);
        }
        if let Some(log) = &self.parts.log {
            log.sync();
        }
        0
    }

    fn wait_for_events(&self, ready: &mut Vec<(Source, PollFlags)>) -> Result<(), Errno> {
        let mut sources = Vec::with_capacity(5 + self.connections.len());
        let mut descriptors = Vec::with_capacity(5 + self.connections.len());
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            descriptors.push(PollFd::from_borrowed_fd(descriptor, flags));
        };
        let parts = &self.parts;
        if self.ended.is_none() {
            add(Source::Signals, parts.signals.as_fd(), PollFlags::IN);
        }
        if self.connections.len() < MAX_CLIENTS {
            add(Source::Listener, parts.listener.as_fd(), PollFlags::IN);
        }
        if self.starting && self.channel_open {
            add(Source::Channel, parts.channel.as_fd(), PollFlags::IN);
        }
        for (stream, output) in [(Stream::Output, &parts.stdio.output), (Stream::Error, &parts.stdio.error)] {
            // A client that does not keep up slows the process, it does not fill memory.
            let congested =
                self.connections.iter().any(|client| client.takes(stream) && client.has_pending());
            if let Some(output) = output.as_ref().filter(|_| !congested) {
                add(Source::Output(stream), output.file().as_fd(), PollFlags::IN);
            }
        }
        let input_wanted = parts.stdio.input.as_ref().is_some_and(|input| input.wants_bytes());
        if let Some(input) = parts.stdio.input.as_ref().filter(|input| input.has_pending()) {
            add(Source::Input, input.file().as_fd(), PollFlags::OUT);
        }
        // Without an input to fill, what clients send is read and dropped.
        let input_wanted = input_wanted || parts.stdio.input.is_none();
        for (index, client) in self.connections.iter().enumerate() {
            // What it has sent must not be lost when it hangs up before the process takes it.
            if client.gives_input() && !input_wanted && !client.has_pending() {
                continue;
            }
            let mut flags = PollFlags::empty();
            if client.is_read(input_wanted) {
                flags |= PollFlags::IN;
            }
            if client.has_pending() {
                flags |= PollFlags::OUT;
            }
            add(Source::Client(index), client.stream().as_fd(), flags);
        }
        let timeout = self.timeout().map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        loop {
            match poll(&mut descriptors, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        for (source, descriptor) in sources.into_iter().zip(&descriptors) {
            if !descriptor.revents().is_empty() {
                ready.push((source, descriptor.revents()));
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if let Some(since) = self.announced {
            return Some(FAREWELL.saturating_sub(since.elapsed()) + Duration::from_millis(1));
        }
        self.ended.as_ref()?;
        let left = LINGER.saturating_sub(self.last_output.elapsed()) + Duration::from_millis(1);
        Some(if self.is_congested() { left.max(Duration::from_millis(100)) } else { left })
    }

    fn handle(&mut self, source: Source, flags: PollFlags, buffer: &mut [u8]) {
        match source {
            Source::Signals => {
                // Which signals came is of no interest: SIGCHLD is the only one.
                let _ = rustix::io::read(&self.parts.signals, &mut *buffer);
                self.reap();
            }
            Source::Listener => {
                if let Ok((stream, _)) = self.parts.listener.accept()
                    && stream.set_nonblocking(true).is_ok()
                {
                    self.connections.push(Connection::new(stream));
                }
            }
            Source::Channel => self.hear_of_start(),
            Source::Output(stream) => self.move_output(stream, buffer),
            Source::Input => self.flush_input(),
            Source::Client(index) => self.serve(index, flags, buffer),
        }
    }

    /// Collects every child that has ended, also those that were handed to this subreaper.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid() == self.parts.process.pid && self.ended.is_none() {
                self.process_ended(status);
            }
        }
    }

    fn process_ended(&mut self, status: WaitStatus) {
        let signal = status.terminating_signal();
        let code = match (status.exit_status(), signal) {
            (Some(code), _) => code as u8,
            (None, signal) => (128 + signal.unwrap_or(0)) as u8,
        };
        let first = self.parts.own_pid_namespace.is_some();
        let oom_killed = first && self.parts.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        if self.parts.own_pid_namespace == Some(false) {
            // With a pid namespace the kernel has ended the others already.
            if let Some(cgroup) = &self.parts.cgroup {
                let _ = cgroup.kill_all();
            }
        }
        let exit = Exit { code, signal, oom_killed, finished_at: rfc3339(SystemTime::now()) };
        let now = Instant::now();
        self.ended = Some((exit, now));
        self.last_output = now;
        // A failed execve has been reported through the channel before the process ended.
        if self.starting {
            self.hear_of_start();
        }
        self.parts.stdio.process_ended();
    }

    /// The process runs its program (its end of the channel is closed), or says why it could not.
    fn hear_of_start(&mut self) {
        if !self.channel_open {
            return;
        }
        self.channel_open = false;
        self.starting = false;
        let reply = match self.parts.channel.receive() {
            Ok(FromChild::Closed) => {
                self.started = true;
                Reply::Ok(true)
            }
            Ok(FromChild::Failed(failure)) => Reply::Error(failure),
            Ok(FromChild::Ready { .. } | FromChild::AtHooks) | Err(_) => Reply::Error(Failure {
                kind: FailureKind::Setup,
                message: "the new process spoke out of turn".into(),
            }),
        };
        for client in self.connections.iter_mut().filter(|client| client.stage == Stage::Starting) {
            client.reply(&reply);
            client.stage = Stage::Leaving;
            client.flush();
        }
    }

    fn output(&self, stream: Stream) -> Option<&Output> {
        match stream {
            Stream::Output => self.parts.stdio.output.as_ref(),
            Stream::Error => self.parts.stdio.error.as_ref(),
        }
    }

    fn move_output(&mut self, stream: Stream, buffer: &mut [u8]) {
        let Some(output) = self.output(stream) else { return };
        match output.read(buffer) {
            Chunk::Nothing => {}
            Chunk::End => match stream {
                Stream::Output => self.parts.stdio.output = None,
                Stream::Error => self.parts.stdio.error = None,
            },
            Chunk::Bytes(count) => {
                let bytes = &buffer[..count];
                self.last_output = Instant::now();
                if let Some(log) = &mut self.parts.log {
                    log.add(stream, bytes);
                }
                let framed = !self.parts.stdio.is_terminal();
                for client in self.connections.iter_mut().filter(|client| client.takes(stream)) {
                    client.add_output(stream, bytes, framed);
                    client.flush();
                }
            }
        }
    }

    fn flush_input(&mut self) {
        if self.parts.stdio.input.as_mut().is_some_and(|input| !input.flush()) {
            self.parts.stdio.input = None;
        }
    }

    fn serve(&mut self, index: usize, flags: PollFlags, buffer: &mut [u8]) {
        let input_wanted = self.parts.stdio.input.as_ref().is_none_or(|input| input.wants_bytes());
        let Some(client) = self.connections.get_mut(index) else { return };
        if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        if flags.contains(PollFlags::IN) && client.is_read(input_wanted) {
            match client.receive(buffer) {
                None => {}
                Some(0) => self.client_finished(index),
                Some(count) => self.client_sent(index, &buffer[..count]),
            }
        }
        let Some(client) = self.connections.get_mut(index) else { return };
        let hung_up = flags.intersects(PollFlags::HUP | PollFlags::ERR) && !flags.contains(PollFlags::IN);
        if hung_up && !client.gone {
            client.gone = true;
            self.input_finished(index);
        }
    }

    fn client_finished(&mut self, index: usize) {
        let client = &mut self.connections[index];
        match client.stage {
            // Whoever leaves before asking, or is not there to hear the answer, needs nothing.
            Stage::Asking => client.gone = true,
            Stage::Attached { .. } => self.input_finished(index),
            Stage::Starting | Stage::Waiting | Stage::Leaving => {}
        }
    }

    /// The client sends no more input: the process sees the end where the launch says so.
    fn input_finished(&mut self, index: usize) {
        let gave_input = matches!(self.connections[index].stage, Stage::Attached { stdin: true, .. });
        if gave_input && self.parts.stdin_once && !self.parts.stdio.is_terminal() {
            self.close_input();
        }
    }

    fn close_input(&mut self) {
        if let Some(input) = &mut self.parts.stdio.input {
            input.end();
        }
        self.flush_input();
    }

    fn client_sent(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.connections[index];
        match client.stage {
            Stage::Asking => match client.hear(bytes) {
                None => {}
                Some(Ok((request, rest))) => {
                    self.answer(index, request);
                    if !rest.is_empty() && self.connections[index].gives_input() {
                        self.give_input(&rest);
                    }
                }
                Some(Err(message)) => self.refuse(index, FailureKind::Request, message),
            },
            Stage::Attached { stdin: true, .. } => self.give_input(bytes),
            _ => {}
        }
    }

    fn give_input(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.parts.stdio.input {
            input.push(bytes);
        }
        self.flush_input();
    }

    fn refuse(&mut self, index: usize, kind: FailureKind, message: impl Into<String>) {
        self.leave(index, &Reply::Error(Failure { kind, message: message.into() }));
    }

    /// Answers and lets the client go.
    fn leave(&mut self, index: usize, reply: &Reply) {
        let client = &mut self.connections[index];
        client.reply(reply);
        client.stage = Stage::Leaving;
        client.flush();
    }

    fn answer(&mut self, index: usize, request: Request) {
        match request {
            Request::Start => self.start(index),
            Request::Wait => match (&self.ended, self.announced) {
                (Some((exit, _)), Some(_)) => {
                    let reply = Reply::Exit(exit.clone());
                    self.leave(index, &reply);
                }
                _ => self.connections[index].stage = Stage::Waiting,
            },
            Request::State => {
                let status = match (&self.ended, self.started) {
                    (Some(_), _) => Status::Exited,
                    (None, true) => Status::Running,
                    (None, false) => Status::Created,
                };
                let exit = self.ended.as_ref().map(|(exit, _)| exit.clone());
                self.leave(index, &Reply::State(State { process: self.parts.process, status, exit }));
            }
            Request::Resize { width, height } => {
                if self.parts.stdio.resize(TerminalSize { width, height }) {
                    self.leave(index, &Reply::Ok(true));
                } else {
                    self.refuse(index, FailureKind::State, "the process has no terminal");
                }
            }
            Request::CloseStdin => {
                self.close_input();
                self.leave(index, &Reply::Ok(true));
            }
            Request::Attach { stdin, stdout, stderr } => {
                if self.announced.is_some() {
                    return self.refuse(index, FailureKind::State, "the process has ended");
                }
                let client = &mut self.connections[index];
                client.reply(&Reply::Ok(true));
                client.stage = Stage::Attached { stdin, stdout, stderr };
                client.flush();
            }
        }
    }

    fn start(&mut self, index: usize) {
        if self.ended.is_some() {
            return self.refuse(index, FailureKind::State, "the process has ended");
        }
        if self.starting || self.started || !self.channel_open {
            return self.refuse(index, FailureKind::State, "the process was started already");
        }
        match self.parts.channel.send_start() {
            Ok(()) => {
                self.starting = true;
                self.connections[index].stage = Stage::Starting;
            }
            Err(error) => self.refuse(index, FailureKind::Setup, error.chain()),
        }
    }

    /// Once the process has ended and its output is complete: the exit file, and the news for those who wait.
    fn settle(&mut self) {
        let Some((exit, _)) = &self.ended else { return };
        let silent = self.last_output.elapsed() > LINGER;
        let drained = self.parts.stdio.output.is_none() && self.parts.stdio.error.is_none();
        if self.announced.is_some() || !(drained || silent && !self.is_congested()) {
            return;
        }
        self.announced = Some(Instant::now());
        if let Some(log) = &mut self.parts.log {
            log.finish();
        }
        if self.parts.own_pid_namespace.is_some()
            && let Some(cgroup) = &self.parts.cgroup
        {
            let _ = cgroup.delete();
        }
        // Without its file the daemon still hears the exit from the socket.
        let _ = write_json(&self.parts.exit_file, exit);
        let reply = Reply::Exit(exit.clone());
        for client in &mut self.connections {
            match client.stage {
                Stage::Waiting => client.reply(&reply),
                Stage::Attached { .. } => {}
                Stage::Starting => client.reply(&Reply::Error(Failure {
                    kind: FailureKind::State,
                    message: "the process has ended".into(),
                })),
                Stage::Asking | Stage::Leaving => continue,
            }
            client.stage = Stage::Leaving;
            client.flush();
        }
        // From now on nobody needs to connect: the exit file says everything.
        let _ = std::fs::remove_file(&self.parts.socket);
        self.connections.retain(|connection| !connection.gone);
    }

    fn is_congested(&self) -> bool {
        let waiting = self.connections.iter().any(|client| client.has_pending());
        let patient = self.ended.as_ref().is_some_and(|(_, since)| since.elapsed() < FAREWELL);
        waiting && patient
    }
}
