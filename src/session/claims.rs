//! Who has which key groups: a higher attempt of an operator fences the sessions of lower ones at once (DESIGN D9).

use crate::error::{Code, Error, Result};
use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The key groups that the sessions of one engine claim.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    operator: String,
    groups: RangeInclusive<u16>,
    attempt: u32,
    fence: watch::Sender<bool>,
}

/// What a session claims; given up when dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    fence: watch::Receiver<bool>,
}

impl Claims {
    /// Claims key groups of an operator; sessions of lower attempts that have some of them are fenced.
    ///
    /// # Errors
    /// [`Code::Fenced`] if a session of this attempt or a higher one has some of them.
    pub fn claim(&self, operator: &str, groups: RangeInclusive<u16>, attempt: u32) -> Result<Claim> {
        let mut entries = self.lock();
        let overlaps =
            |entry: &&Entry| entry.operator == operator && entry.groups.start() <= groups.end() && groups.start() <= entry.groups.end();
        if let Some(other) = entries.iter().filter(overlaps).find(|entry| entry.attempt >= attempt && !*entry.fence.borrow()) {
            let (first, last, theirs) = (other.groups.start(), other.groups.end(), other.attempt);
            let message = format!(
                "a session of attempt {theirs} has the key groups {first} to {last} of `{operator}`, this one is attempt {attempt}"
            );
            return Err(Error::new(Code::Fenced, message)
                .hint("give each parallel instance its own key groups, and a restarted operator a higher attempt"));
        }
        for lower in entries.iter().filter(overlaps) {
            lower.fence.send_replace(true);
        }
        let fence = watch::Sender::new(false);
        let told = fence.subscribe();
        entries.push(Entry { operator: operator.to_owned(), groups, attempt, fence });
        Ok(Claim { claims: self.clone(), fence: told })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Resolves with why the session must end, when another one has taken over.
    pub async fn fenced(&self) -> Error {
        let mut fence = self.fence.clone();
        if fence.wait_for(|fenced| *fenced).await.is_err() {
            // Cannot be: the sender stays as long as the claim does.
            std::future::pending::<()>().await;
        }
        Error::new(Code::Fenced, "a higher attempt has taken over the key groups of this session")
            .hint("nothing that this attempt still sends takes effect")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().retain(|entry| !entry.fence.subscribe().same_channel(&self.fence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fenced(claim: &Claim) -> bool {
        *claim.fence.borrow()
    }

    #[test]
    fn a_higher_attempt_fences_and_an_equal_one_is_refused() {
        let claims = Claims::default();
        let low = claims.claim("op", 0..=63, 1).unwrap();
        let beside = claims.claim("op", 64..=127, 1).unwrap();
        let _other = claims.claim("another", 0..=127, 1).unwrap();
        for attempt in [0, 1] {
            assert_eq!(claims.claim("op", 60..=60, attempt).unwrap_err().code(), Code::Fenced);
        }
        let high = claims.claim("op", 0..=63, 2).unwrap();
        assert!(is_fenced(&low) && !is_fenced(&beside) && !is_fenced(&high));
        // What goes away late takes nothing from its successor.
        drop(low);
        assert_eq!(claims.claim("op", 0..=0, 1).unwrap_err().code(), Code::Fenced);
        drop(high);
        claims.claim("op", 0..=0, 1).unwrap();
    }

    #[tokio::test]
    async fn the_fenced_are_told() {
        let claims = Claims::default();
        let low = claims.claim("op", 0..=0, 1).unwrap();
        let (why, _high) = tokio::join!(low.fenced(), async { claims.claim("op", 0..=0, 2).unwrap() });
        assert_eq!(why.code(), Code::Fenced);
    }
}
