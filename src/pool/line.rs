//! The waiting line: whose turn it is when there are fewer workers than work.
//!
//! Start-time fair queueing over sessions. Each session has an account of the worker time it has used, divided by its weight; the next free worker goes
//! to the one that has used least, whoever came first and however many of its drivers wait. Three rules keep that honest:
//!
//! - Time is counted while a lease runs, not when it ends, so that a long batch counts before it is over.
//! - Time counts only while somebody waits. What nobody else wanted is free, and a session that had the pool to itself owes nobody.
//! - Who comes anew is lifted to just below those who wait already: it is next, but time not used in the past is no claim on the future.
//!
//! Loading a plan and describing a function have one account together, with the largest weight there is: many opens do not starve the open sessions, and are not starved by them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// The account of what is done for no open session: loading and describing. Plans are numbered from 1.
pub(super) const LOADING: u64 = 0;

/// Weights are divisors, so the clocks run in parts of a nanosecond.
const SCALE: u128 = 1 << 20;

/// How far somebody who comes anew goes before those who wait already, as worker time: one turn, so that a session that comes now and then does not wait for a turn of each
/// of the others. It is no more than that however often it comes, since what it then uses counts.
const WELCOME: Duration = Duration::from_millis(10);

/// What is remembered of an imbalance, as worker time, where remembering all of it would starve somebody: a session that runs cannot claim more time not
/// used, and loading, whose imports may take minutes, cannot owe more.
const MEMORY: Duration = Duration::from_secs(5);

/// Somebody in the line.
pub(super) trait Waiter {
    /// True once it has given up.
    fn is_gone(&self) -> bool;
}

/// The line, and the accounts by which it is ordered. `now` never goes back.
pub(super) struct Line<W> {
    accounts: HashMap<u64, Account<W>>,
    /// Nobody who joins the line starts below this.
    floor: u128,
    /// How long somebody has waited so far, all in all: the clock that leases are measured by.
    contended: Duration,
    contended_since: Option<Instant>,
    tickets: u64,
    waiting: usize,
}

struct Account<W> {
    weight: u32,
    /// Of ended leases, by weight.
    used: u128,
    /// Leases that run, and the sum of the clock's readings when they began.
    running: u32,
    begun: Duration,
    /// First come, first served within the account.
    waiting: VecDeque<(u64, W)>,
}

/// The entry of a running lease. Give it back with [`Line::end`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    account: u64,
    begun: Duration,
}

impl<W> Account<W> {
    fn new(weight: u32) -> Self {
        Account { weight: weight.max(1), used: 0, running: 0, begun: Duration::ZERO, waiting: VecDeque::new() }
    }

    fn by_weight(&self, time: Duration) -> u128 {
        time.as_nanos() * SCALE / u128::from(self.weight)
    }

    /// Ended and running leases.
    fn used(&self, clock: Duration) -> u128 {
        self.used + self.by_weight((clock * self.running).saturating_sub(self.begun))
    }
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Line {
            accounts: HashMap::from([(LOADING, Account::new(1))]),
            floor: 0,
            contended: Duration::ZERO,
            contended_since: None,
            tickets: 0,
            waiting: 0,
        }
    }
}

impl<W: Waiter> Line<W> {
    /// A session with this weight may come.
    pub fn open(&mut self, account: u64, weight: u32) {
        self.accounts.insert(account, Account::new(weight));
        self.weigh_loading();
    }

    /// It will not come again; its leases may still run.
    pub fn close(&mut self, account: u64) {
        let gone = self.accounts.remove(&account);
        self.waiting -= gone.map_or(0, |account| account.waiting.len());
        self.weigh_loading();
    }

    /// Joins the line. An account that is not open is that of loading.
    pub fn join(&mut self, account: u64, waiter: W, now: Instant) {
        let account = self.known(account);
        self.arrive(account, now);
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(account) = self.accounts.get_mut(&account) {
            account.waiting.push_back((ticket, waiter));
            self.waiting += 1;
            self.contended_since.get_or_insert(now);
        }
    }

    /// Somebody comes for a lease: time that the account did not use before is no claim now.
    pub fn arrive(&mut self, account: u64, now: Instant) {
        let (id, clock) = (self.known(account), self.clock(now));
        if self.accounts.get(&id).is_none_or(|account| !account.waiting.is_empty()) {
            return;
        }
        let least = |which: fn(&Account<W>) -> bool| {
            self.accounts.values().filter(|account| which(account)).map(|account| account.used(clock)).min().unwrap_or_default()
        };
        // Whoever has a worker may be catching up with those who wait; or may want no more, and then holds nobody back for long.
        let waiting = least(|account| !account.waiting.is_empty());
        let active = least(|account| !account.waiting.is_empty() || account.running > 0);
        self.floor = self.floor.max(active).max(waiting.saturating_sub(MEMORY.as_nanos() * SCALE));
        let floor = self.floor;
        let Some(account) = self.accounts.get_mut(&id) else { return };
        let memory = account.by_weight(MEMORY);
        let below = if account.running == 0 { account.by_weight(WELCOME) } else { memory };
        account.used += floor.saturating_sub(below).saturating_sub(account.used(clock));
        if id == LOADING && account.running == 0 {
            account.used = account.used.min(floor + memory);
        }
    }

    /// Takes who is next out of the line, with its account.
    pub fn next(&mut self, now: Instant) -> Option<(u64, W)> {
        let (account, used) = self.first(None, now)?;
        self.floor = self.floor.max(used);
        let (_, waiter) = self.accounts.get_mut(&account)?.waiting.pop_front()?;
        self.waiting -= 1;
        self.rest(now);
        Some((account, waiter))
    }

    /// A lease begins, after the line or, following [`Line::arrive`], without one.
    pub fn begin(&mut self, account: u64, now: Instant) -> Charge {
        let (account, clock) = (self.known(account), self.clock(now));
        if let Some(account) = self.accounts.get_mut(&account) {
            account.running += 1;
            account.begun += clock;
        }
        Charge { account, begun: clock }
    }

    /// A lease has ended.
    pub fn end(&mut self, charge: Charge, now: Instant) {
        let clock = self.clock(now);
        if let Some(account) = self.accounts.get_mut(&charge.account) {
            account.running = account.running.saturating_sub(1);
            account.begun = account.begun.saturating_sub(charge.begun);
            account.used += account.by_weight(clock.saturating_sub(charge.begun));
        }
    }

    /// Whether somebody of another account should have the worker that `account` uses.
    pub fn is_due(&mut self, account: u64, now: Instant) -> bool {
        if self.waiting == 0 {
            return false;
        }
        let (account, clock) = (self.known(account), self.clock(now));
        let used = self.accounts.get(&account).map_or(0, |account| account.used(clock));
        self.first(Some(account), now).is_some_and(|(_, least)| least <= used)
    }

    /// Those who wait.
    pub fn len(&mut self, now: Instant) -> usize {
        for account in self.accounts.values_mut().filter(|account| !account.waiting.is_empty()) {
            account.waiting.retain(|(_, waiter)| !waiter.is_gone());
        }
        self.waiting = self.accounts.values().map(|account| account.waiting.len()).sum();
        self.rest(now);
        self.waiting
    }

    /// Sends everybody away.
    pub fn clear(&mut self, now: Instant) {
        self.accounts.values_mut().for_each(|account| account.waiting.clear());
        self.waiting = 0;
        self.rest(now);
    }

    /// The account, other than `but`, that has used least of those with somebody in the line, and what it has used. Among equals, who came first.
    fn first(&mut self, but: Option<u64>, now: Instant) -> Option<(u64, u128)> {
        let clock = self.clock(now);
        let mut first: Option<(u128, u64, u64)> = None;
        for (&id, account) in &mut self.accounts {
            if Some(id) == but {
                continue;
            }
            while account.waiting.front().is_some_and(|(_, waiter)| waiter.is_gone()) {
                account.waiting.pop_front();
                self.waiting -= 1;
            }
            if let Some(&(ticket, _)) = account.waiting.front() {
                let key = (account.used(clock), ticket, id);
                first = Some(first.map_or(key, |first| first.min(key)));
            }
        }
        self.rest(now);
        first.map(|(used, _, id)| (id, used))
    }

    fn known(&self, account: u64) -> u64 {
        if self.accounts.contains_key(&account) { account } else { LOADING }
    }

    fn weigh_loading(&mut self) {
        let most = self.accounts.iter().filter(|(id, _)| **id != LOADING).map(|(_, account)| account.weight).max();
        if let Some(loading) = self.accounts.get_mut(&LOADING) {
            loading.weight = most.unwrap_or(1);
        }
    }

    fn clock(&self, now: Instant) -> Duration {
        self.contended + self.contended_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Stops the clock once nobody waits.
    fn rest(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.contended = self.clock(now);
            self.contended_since = None;
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
