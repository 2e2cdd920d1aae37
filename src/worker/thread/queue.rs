//! What a worker's thread has to do. Waking a thread that sleeps costs more than a small call, so that one whose work comes in quick succession looks out for it a
//! while before it sleeps.

use crate::worker::ToWorker;
use std::{
    collections::VecDeque,
    hint,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Longest look-out. Longer than a host takes to send the next batch after it has a result, and about what a wake-up costs.
const LOOK_OUT: Duration = Duration::from_micros(50);

/// Weight of the last wait in the average, as a fraction of this.
const WEIGHT: u32 = 4;

#[derive(Default)]
struct State {
    messages: VecDeque<ToWorker>,
    closed: bool,
    asleep: bool,
}

/// The messages for a worker; one thread takes them.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// There is something to take, or the queue was closed.
    ready: AtomicBool,
}

/// How long the next wait will probably be.
pub struct Expectation(Duration);

impl Default for Expectation {
    /// Nothing is expected soon.
    fn default() -> Self {
        Expectation(Duration::from_millis(1))
    }
}

impl Expectation {
    fn look_out(&self) -> Duration {
        static MANY_CORES: OnceLock<bool> = OnceLock::new();
        // With one core, whoever looks out keeps the one he looks out for from running.
        let many = *MANY_CORES.get_or_init(|| thread::available_parallelism().is_ok_and(|cores| cores.get() > 1));
        if many && self.0 < LOOK_OUT { LOOK_OUT } else { Duration::ZERO }
    }

    fn learn(&mut self, waited: Duration) {
        // One long pause says nothing about the next burst.
        self.0 = (self.0 * (WEIGHT - 1) + waited.min(LOOK_OUT * 20)) / WEIGHT;
    }
}

impl Queue {
    /// Adds a message; never blocks.
    pub fn push(&self, message: ToWorker) {
        let mut state = self.lock();
        state.messages.push_back(message);
        self.announce(state);
    }

    /// Ends the queue; messages in it are not taken any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.messages.clear();
        self.announce(state);
    }

    fn announce(&self, state: MutexGuard<'_, State>) {
        self.ready.store(true, Ordering::Release);
        let asleep = state.asleep;
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Waits for the next message; `None` once the queue is closed.
    pub fn pop(&self, expectation: &mut Expectation) -> Option<ToWorker> {
        let began = Instant::now();
        let look_out = expectation.look_out();
        while !self.ready.load(Ordering::Acquire) && began.elapsed() < look_out {
            for _ in 0..32 {
                hint::spin_loop();
            }
        }
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(message) = state.messages.pop_front() {
                self.ready.store(!state.messages.is_empty(), Ordering::Release);
                expectation.learn(began.elapsed());
                return Some(message);
            }
            state.asleep = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn messages_arrive_in_order_asleep_or_not() {
        let queue = Arc::new(Queue::default());
        let taker = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut expectation = Expectation::default();
                let mut taken = Vec::new();
                while let Some(ToWorker::Release { plan_id }) = queue.pop(&mut expectation) {
                    taken.push(plan_id);
                    if plan_id == 2000 {
                        queue.close();
                    }
                }
                taken
            })
        };
        for plan_id in 1..=2000 {
            queue.push(ToWorker::Release { plan_id });
            if plan_id % 100 == 0 {
                thread::sleep(Duration::from_micros(200));
            }
        }
        assert_eq!(taker.join().unwrap(), (1..=2000).collect::<Vec<_>>());
    }

    #[test]
    fn who_waits_long_does_not_look_out() {
        let mut expectation = Expectation::default();
        assert_eq!(expectation.look_out(), Duration::ZERO);
        (0..20).for_each(|_| expectation.learn(Duration::from_micros(5)));
        let many = thread::available_parallelism().unwrap().get() > 1;
        assert_eq!(expectation.look_out() > Duration::ZERO, many);
        (0..20).for_each(|_| expectation.learn(Duration::from_secs(1)));
        assert_eq!(expectation.look_out(), Duration::ZERO);
    }
}
