//! What a worker's thread has to do. Waking a thread that sleeps costs more than a small call, so that one whose work comes in quick succession watches for it a while
//! before it sleeps ([`Spin`]).

use crate::{batch::Batch, error::Result, worker::ToWorker};
use pillion_wire::shm::Spin;
use std::{
    collections::VecDeque,
    hint,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

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
    pub fn pop(&self, spin: &mut Spin) -> Option<ToWorker> {
        let began = Instant::now();
        let limit = spin.limit();
        while !self.ready.load(Ordering::Acquire) && began.elapsed() < limit {
            for _ in 0..32 {
                hint::spin_loop();
            }
        }
        let mut slept = false;
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(message) = state.messages.pop_front() {
                self.ready.store(!state.messages.is_empty(), Ordering::Release);
                spin.learn(began.elapsed(), !slept);
                return Some(message);
            }
            slept = true;
            state.asleep = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
    }

    /// Waits for the answer to what batch `seq` asks; what comes before it stays in order. `None` once the queue is closed.
    pub fn pop_fetched(&self, seq: u64) -> Option<Result<Batch>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let answer = state.messages.iter().position(|message| matches!(message, ToWorker::Fetched { seq: of, .. } if *of == seq));
            if let Some(ToWorker::Fetched { result, .. }) = answer.and_then(|at| state.messages.remove(at)) {
                self.ready.store(!state.messages.is_empty(), Ordering::Release);
                return Some(result);
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
    use std::{sync::Arc, thread, time::Duration};

    #[test]
    fn an_answer_overtakes_what_waits_and_leaves_its_order() {
        let queue = Arc::new(Queue::default());
        let asking = thread::spawn({
            let queue = queue.clone();
            move || queue.pop_fetched(7)
        });
        let fetched = |seq| ToWorker::Fetched { plan_id: 0, seq, result: Err(crate::Error::new(crate::Code::Cancelled, "none")) };
        for message in [ToWorker::Release { plan_id: 1 }, fetched(6), ToWorker::Release { plan_id: 2 }, fetched(7)] {
            queue.push(message);
        }
        assert!(asking.join().unwrap().unwrap().is_err());
        let mut spin = Spin::new(Duration::ZERO);
        assert!(matches!(queue.pop(&mut spin), Some(ToWorker::Release { plan_id: 1 })));
        assert!(matches!(queue.pop(&mut spin), Some(ToWorker::Fetched { seq: 6, .. })));
        assert!(matches!(queue.pop(&mut spin), Some(ToWorker::Release { plan_id: 2 })));
        queue.close();
        assert!(queue.pop_fetched(8).is_none());
    }

    #[test]
    fn messages_arrive_in_order_asleep_or_not() {
        let queue = Arc::new(Queue::default());
        let taker = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut spin = Spin::new(Duration::from_micros(50));
                let mut taken = Vec::new();
                while let Some(ToWorker::Release { plan_id }) = queue.pop(&mut spin) {
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
}
