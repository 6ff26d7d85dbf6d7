//! What can be said about the scheduler from outside: under which names pods find it, and what each of them prefers.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::scores;

/// The name that pods have in mind that name no scheduler.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// The largest weight of a score.
const HEAVIEST: i64 = 100;

/// How pods are placed.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What pods can ask for by name besides `default-scheduler`, which is there unless one of these is called so.
    pub profiles: Vec<Profile>,
    /// What this server is called where several run: only the one that holds the Lease `kube-scheduler` decides.
    /// Without a name this one does.
    pub identity: Option<String>,
}

impl Config {
    /// All profiles.
    pub(crate) fn profiles(&self) -> Vec<Profile> {
        let mut profiles = self.profiles.clone();
        if !profiles.iter().any(|profile| profile.name == DEFAULT_SCHEDULER) {
            profiles.push(Profile::default());
        }
        profiles
    }
}

/// A scheduler that pods can ask for, and what it prefers.
///
/// Written as `NAME[:KEY=VALUE,...]`, where a key is the name of a score, whose weight follows, or `strategy`:
/// `LeastAllocated` for room on every node, `MostAllocated` for few nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// As pods ask for it.
    pub name: String,
    /// The weight of each score, in the order of their table.
    pub(crate) weights: Vec<i64>,
    /// Whether nodes are better the fuller they are.
    pub(crate) packs: bool,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile { name: DEFAULT_SCHEDULER.to_owned(), weights: scores::weights(), packs: false }
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Profile> {
        let wrong = |reason: String| Error::Profile { text: text.to_owned(), reason };
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(wrong("it has no name".to_owned()));
        }
        let mut profile = Profile { name: name.to_owned(), ..Profile::default() };
        for entry in rest.split(',').filter(|entry| !entry.is_empty()) {
            let Some((key, value)) = entry.split_once('=') else {
                return Err(wrong(format!("{entry:?} is not KEY=VALUE")));
            };
            match (key, value, scores::number(key)) {
                ("strategy", "LeastAllocated", _) => profile.packs = false,
                ("strategy", "MostAllocated", _) => profile.packs = true,
                ("strategy", ..) => return Err(wrong(format!("there is no strategy {value:?}"))),
                (_, _, Some(number)) => match value.parse() {
                    Ok(weight @ 0..=HEAVIEST) => profile.weights[number] = weight,
                    _ => return Err(wrong(format!("a weight is from 0 to {HEAVIEST}, and not {value:?}"))),
                },
                _ => return Err(wrong(format!("there is no score {key:?}"))),
            }
        }
        Ok(profile)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read() {
        let profile: Profile =
            "packed:strategy=MostAllocated,NodeResourcesFit=5,ImageLocality=0".parse().unwrap();
        assert_eq!((profile.name.as_str(), profile.packs), ("packed", true));
        assert_eq!(profile.weights[scores::number("NodeResourcesFit").unwrap()], 5);
        assert_eq!(profile.weights[scores::number("ImageLocality").unwrap()], 0);
        assert_eq!(profile.weights[scores::number("TaintToleration").unwrap()], 3);
        for (text, reason) in [
            ("", "it has no name"),
            ("a:b", "\"b\" is not KEY=VALUE"),
            ("a:b=1", "there is no score \"b\""),
            ("a:ImageLocality=101", "a weight is from 0 to 100, and not \"101\""),
            ("a:strategy=b", "there is no strategy \"b\""),
        ] {
            let error = text.parse::<Profile>().unwrap_err();
            assert_eq!(error.to_string(), format!("the profile {text:?} cannot be read: {reason}"));
        }
    }

    #[test]
    fn the_usual_profile_is_there_unless_it_is_another() {
        let names = |config: &Config| config.profiles().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&Config::default()), ["default-scheduler"]);
        let packed: Profile = "packed:strategy=MostAllocated".parse().unwrap();
        let config = Config { profiles: vec![packed], identity: None };
        assert_eq!(names(&config), ["packed", "default-scheduler"]);
        let other: Profile = "default-scheduler:strategy=MostAllocated".parse().unwrap();
        let config = Config { profiles: vec![other], identity: None };
        assert!(config.profiles()[0].packs && config.profiles().len() == 1);
    }
}
