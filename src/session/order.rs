//! Answers in input order: what is complete waits until everything before it is.

use std::collections::{BTreeMap, VecDeque};

/// Puts answers, which come in any order, into that of their inputs.
#[derive(Debug)]
pub(crate) struct Order<T> {
    /// The first sequence number that has not been answered.
    next: u64,
    waiting: BTreeMap<u64, Waiting<T>>,
    ready: VecDeque<T>,
    ordered: bool,
}

/// What an input has been answered with before its turn.
#[derive(Debug)]
struct Waiting<T> {
    answers: Vec<T>,
    /// Nothing follows.
    closed: bool,
}

impl<T> Order<T> {
    /// If not `ordered`, [`Order::answer`] releases at once, and only [`Order::mark`] keeps its place.
    pub fn new(ordered: bool) -> Self {
        Order { next: 1, waiting: BTreeMap::new(), ready: VecDeque::new(), ordered }
    }

    /// One of several answers to input `seq`, which [`Order::answer`] or [`Order::mark`] ends. To one that has ended already, it comes as soon as it can.
    pub fn add(&mut self, seq: u64, answer: T) {
        if !self.ordered || seq <= self.next {
            self.ready.push_back(answer);
        } else {
            self.waiting.entry(seq).or_default().answers.push(answer);
        }
    }

    /// The answer to input `seq`.
    pub fn answer(&mut self, seq: u64, answer: T) {
        if self.ordered {
            self.place(seq, Some(answer));
        } else {
            self.ready.push_back(answer);
            self.place(seq, None);
        }
    }

    /// Something that stands at its place in the input whatever the order of the answers; `None` if it has no answer.
    pub fn mark(&mut self, seq: u64, mark: Option<T>) {
        self.place(seq, mark);
    }

    fn place(&mut self, seq: u64, answer: Option<T>) {
        let waiting = self.waiting.entry(seq).or_default();
        waiting.answers.extend(answer);
        waiting.closed = true;
        while let Some(waiting) = self.waiting.get_mut(&self.next) {
            self.ready.extend(waiting.answers.drain(..));
            if !waiting.closed {
                break;
            }
            self.waiting.remove(&self.next);
            self.next += 1;
        }
    }

    /// The next answer that may be released.
    pub fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// Whether nothing can be released before `seq` is answered.
    pub fn is_awaited(&self, seq: u64) -> bool {
        seq <= self.next && self.ready.is_empty()
    }

    /// True if everything up to and including `last` was answered and taken.
    pub fn is_done(&self, last: u64) -> bool {
        self.next > last && self.ready.is_empty()
    }

    /// Answers and marks that wait for those before them or for the reader.
    pub fn held(&self) -> usize {
        self.waiting.len() + self.ready.len()
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { answers: Vec::new(), closed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn several_answers_to_one_input_come_as_soon_as_it_is_their_turn() {
        let mut order = Order::new(true);
        order.add(2, "2a");
        order.add(1, "1a");
        assert_eq!((order.pop(), order.pop()), (Some("1a"), None));
        order.mark(1, None);
        assert_eq!((order.pop(), order.pop()), (Some("2a"), None));
        order.add(2, "2b");
        order.add(1, "late");
        order.answer(2, "2c");
        assert_eq!([order.pop(), order.pop(), order.pop(), order.pop()], [Some("2b"), Some("late"), Some("2c"), None]);
        assert!(order.is_done(2));
    }

    proptest! {
        #[test]
        fn any_order_of_answers_comes_out_sorted(permutation in Just((1..=50u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut order = Order::new(true);
            let mut out = Vec::new();
            for seq in permutation {
                order.answer(seq, seq);
                out.extend(std::iter::from_fn(|| order.pop()));
            }
            prop_assert_eq!(out, (1..=50).collect::<Vec<_>>());
            prop_assert!(order.is_done(50));
            prop_assert_eq!(order.held(), 0);
        }

        /// Without an order only the marks keep theirs: no mark comes before an answer to an earlier input.
        #[test]
        fn marks_keep_their_place(permutation in Just((1..=50u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut order = Order::new(false);
            let mut seen = std::collections::HashSet::new();
            for seq in permutation {
                if seq % 10 == 0 { order.mark(seq, Some(seq)) } else { order.answer(seq, seq) }
                while let Some(out) = order.pop() {
                    seen.insert(out);
                    if out % 10 == 0 {
                        prop_assert!((1..out).all(|earlier| seen.contains(&earlier)), "mark {} came early", out);
                    }
                }
            }
            prop_assert!(order.is_done(50));
        }
    }
}
