//! The classic builder's words of stages that run at once: told stage after stage, as if one waited for the other.

use tokio::sync::Mutex;

use crate::Result;
use crate::progress::{Event, Output};

/// Bytes that a stage may say before its turn; what it says beyond is left out.
const HELD: usize = 4 << 20;

/// Who speaks, and what the others have said meanwhile.
pub(crate) struct Transcript {
    output: Output,
    turns: Mutex<Turns>,
}

struct Turns {
    current: usize,
    /// One a speaker.
    waiting: Vec<Waiting>,
}

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    bytes: usize,
    is_done: bool,
}

impl Transcript {
    /// For so many speakers, who have their turns by number.
    pub(crate) fn new(output: Output, speakers: usize) -> Self {
        let waiting = (0..speakers).map(|_| Waiting::default()).collect();
        Self { output, turns: Mutex::new(Turns { current: 0, waiting }) }
    }

    pub(crate) async fn say(&self, speaker: usize, event: Event) -> Result<()> {
        let mut turns = self.turns.lock().await;
        if turns.current == speaker {
            return self.output.send(event).await;
        }
        let Some(waiting) = turns.waiting.get_mut(speaker) else { return self.output.send(event).await };
        let size = if let Event::Text(text) = &event { text.len() } else { 64 };
        if waiting.bytes <= HELD && waiting.bytes + size > HELD {
            waiting.events.push(Event::Text("[output clipped]\n".to_owned()));
        }
        waiting.bytes += size;
        if waiting.bytes <= HELD {
            waiting.events.push(event);
        }
        Ok(())
    }

    /// The speaker has nothing more to say.
    pub(crate) async fn finish(&self, speaker: usize) -> Result<()> {
        let mut turns = self.turns.lock().await;
        if let Some(waiting) = turns.waiting.get_mut(speaker) {
            waiting.is_done = true;
        }
        while turns.waiting.get(turns.current).is_some_and(|waiting| waiting.is_done) {
            turns.current += 1;
            let current = turns.current;
            let Some(next) = turns.waiting.get_mut(current) else { break };
            for event in std::mem::take(&mut next.events) {
                self.output.send(event).await?;
            }
        }
        Ok(())
    }

    /// The build has failed: all that the speaker said is told, whoever's turn it is.
    pub(crate) async fn flush(&self, speaker: usize) -> Result<()> {
        let mut turns = self.turns.lock().await;
        let held = turns.waiting.get_mut(speaker).map(|waiting| std::mem::take(&mut waiting.events));
        for event in held.unwrap_or_default() {
            self.output.send(event).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_one_after_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
            let transcript = Transcript::new(Output::new(sender), 3);
            for (speaker, text) in [(2, "e"), (1, "c"), (0, "a"), (1, "d"), (0, "b")] {
                transcript.say(speaker, Event::Text(text.to_owned())).await.unwrap();
            }
            transcript.finish(1).await.unwrap();
            transcript.finish(0).await.unwrap();
            transcript.say(2, Event::Text("f".to_owned())).await.unwrap();
            drop(transcript);
            let mut all = String::new();
            while let Some(Event::Text(text)) = receiver.recv().await {
                all.push_str(&text);
            }
            assert_eq!(all, "abcdef");
        });
    }
}
