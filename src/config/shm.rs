//! `[shm]`: memory shared between the engine, its workers and hosts on the same machine.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::units;

/// Longest spin that `auto` chooses: about what falling asleep and being woken costs on a shared machine.
const AUTO_SPIN: Duration = Duration::from_micros(100);

/// `[shm]`: shared memory. Where it cannot be had, bodies go inline, as with `enabled = false`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShmConfig {
    /// Use shared memory where both ends can. Default true.
    pub enabled: bool,
    /// Size of one arena; made when it is first needed, by each worker and for each. A larger body gets a larger one, at most 1GiB. Default 32MiB.
    #[serde(with = "units::size")]
    pub arena_bytes: u64,
    /// Most bytes of all arenas that the engine makes together: for what it sends to its workers, for the inputs of connected sessions, and for what an embedded host
    /// builds in place (`Session::allocate`). A connected session's come to no more than `limits.session_input_bytes` and one arena. What a worker makes for its
    /// results counts by itself, up to the same number. Beyond that bodies go inline, until other arenas are gone: they stay until their worker or session ends. Default 1GiB.
    #[serde(with = "units::size")]
    pub max_bytes: u64,
    /// Smaller bodies go inline. Default 32KiB.
    #[serde(with = "units::size")]
    pub threshold: u64,
    /// How long each end watches for the next message before it sleeps: a time of at most 1ms, `off`, or `auto`, which is 100us with two cores or more and off
    /// with one. An end that watches in vain stops watching. Holds for threads of thread mode, too. Default auto.
    pub spin: Spin,
}

impl Default for ShmConfig {
    fn default() -> Self {
        Self { enabled: true, arena_bytes: 32 << 20, max_bytes: 1 << 30, threshold: 32 << 10, spin: Spin::Auto }
    }
}

/// How long to watch before sleeping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spin {
    /// As the machine suggests.
    #[default]
    Auto,
    /// At most this long; zero is off.
    For(Duration),
}

/// Longer watching would hold up other tasks of the same thread.
const MAX_SPIN: Duration = Duration::from_millis(1);

impl Spin {
    /// Never.
    pub const OFF: Spin = Spin::For(Duration::ZERO);

    /// The longest spin on this machine.
    pub fn limit(self) -> Duration {
        match self {
            Spin::For(limit) => limit,
            Spin::Auto if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) => AUTO_SPIN,
            Spin::Auto => Duration::ZERO,
        }
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spin::Auto => f.write_str("auto"),
            Spin::For(Duration::ZERO) => f.write_str("off"),
            Spin::For(limit) => write!(f, "{}", humantime::format_duration(*limit)),
        }
    }
}

impl FromStr for Spin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Spin::Auto),
            "off" => Ok(Spin::OFF),
            other => match units::parse_duration(other) {
                Ok(limit) if limit <= MAX_SPIN => Ok(Spin::For(limit)),
                _ => Err(format!("`{other}` is no time to spin; write `auto`, `off`, or at most `1ms`")),
            },
        }
    }
}

impl Serialize for Spin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Spin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_spin_read_back() {
        for text in ["auto", "off", "20us", "1ms"] {
            assert_eq!(text.parse::<Spin>().unwrap().to_string(), text);
        }
        assert!("2ms".parse::<Spin>().is_err());
        assert!("often".parse::<Spin>().is_err());
        assert_eq!("off".parse::<Spin>().unwrap().limit(), Duration::ZERO);
    }
}
