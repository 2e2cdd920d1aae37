//! Whether to watch for the next message before sleeping (DESIGN D2): waking who sleeps costs more than a small call.
//!
//! Watching is worth it only if what is waited for comes soon, which the last waits tell. While it pays, each wait costs at most the limit in vain; after a few in
//! vain this end sleeps, and tries again when waits that it slept through were short. Tries that fail become rarer, so that a function of a few hundred microseconds, which
//! looks promising for ever, costs next to nothing; a try lasts several waits, because it succeeds only if the other end watches, too. An idle end never tries.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Waits in vain until an end sleeps: half of this, each of which counts double.
const CONFIDENCE: u32 = 8;

/// Short waits that an end sleeps through before it tries again, at first and at most.
const PATIENCE: (u32, u32) = (4, 64);

/// A wait of so many limits is short, seen by who slept: both ends' wake-ups lengthen it.
const SHORT: u32 = 8;

/// One end's experience.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    limit: Duration,
    /// Above zero this end watches.
    confidence: u32,
    /// Short waits until the next try, and how many they were before this one.
    left: u32,
    patience: u32,
    /// Of a sequence of random numbers: two ends that both try now and then must not miss each other for ever.
    random: u64,
}

impl Spin {
    /// Watches for at most `limit`; zero switches it off.
    pub fn new(limit: Duration) -> Self {
        Spin { limit, confidence: CONFIDENCE, left: 0, patience: PATIENCE.0, random: RandomState::new().hash_one(0) | 1 }
    }

    /// How long to watch now.
    pub fn limit(&self) -> Duration {
        if self.confidence > 0 { self.limit } else { Duration::ZERO }
    }

    /// Takes note of a wait, and of whether it was over before this end fell asleep.
    pub fn learn(&mut self, waited: Duration, awake: bool) {
        if self.confidence > 0 {
            if !awake {
                self.confidence = self.confidence.saturating_sub(2);
                if self.confidence == 0 {
                    self.left = self.patience / 2 + self.random_below(self.patience);
                    self.patience = (self.patience * 2).min(PATIENCE.1);
                }
            } else if self.confidence < CONFIDENCE {
                self.confidence += 1;
            } else {
                self.patience = PATIENCE.0;
            }
        } else if waited < self.limit.saturating_mul(SHORT) {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.confidence = CONFIDENCE;
            }
        }
    }

    fn random_below(&mut self, bound: u32) -> u32 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Less than a number of 32 bits.
        (self.random % u64::from(bound)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    /// Waits of one length: how many of `count` were watched.
    fn watched(spin: &mut Spin, wait: Duration, count: usize) -> usize {
        (0..count)
            .filter(|_| {
                let watches = spin.limit() > Duration::ZERO;
                spin.learn(wait, watches && wait < spin.limit());
                watches
            })
            .count()
    }

    #[test]
    fn short_waits_are_watched_and_long_ones_slept_through() {
        let mut spin = Spin::new(LIMIT);
        assert_eq!(watched(&mut spin, Duration::from_micros(10), 1000), 1000);
        assert_eq!(watched(&mut spin, Duration::from_millis(10), 1000), 4);
        assert_eq!(Spin::new(Duration::ZERO).limit(), Duration::ZERO);
    }

    #[test]
    fn waits_that_only_look_short_are_tried_ever_more_rarely() {
        let mut spin = Spin::new(LIMIT);
        watched(&mut spin, Duration::from_micros(200), 1000);
        let tries = watched(&mut spin, Duration::from_micros(200), 10_000);
        assert!((300..800).contains(&tries), "{tries}");
        assert!(watched(&mut spin, Duration::from_micros(10), 1000) > 700, "it comes back");
    }

    /// Two ends that call each other by turns: a trip takes little while both watch, and seems short while both sleep. From whatever they have come to, they find together.
    #[test]
    fn ends_that_lost_each_other_find_together() {
        for head_start in 0..300 {
            let (mut one, mut other) = (Spin::new(LIMIT), Spin::new(LIMIT));
            watched(&mut one, Duration::from_micros(150), head_start);
            let mut together = 0;
            for _ in 0..20_000 {
                let both = one.limit() > Duration::ZERO && other.limit() > Duration::ZERO;
                let wait = if both { Duration::from_micros(15) } else { Duration::from_micros(150) };
                one.learn(wait, both);
                other.learn(wait, both);
                together = if both { together + 1 } else { 0 };
            }
            assert!(together > 1000, "after a head start of {head_start}: {one:?} {other:?}");
        }
    }
}
