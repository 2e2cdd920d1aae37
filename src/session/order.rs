//! Answers in input order: what is complete waits until everything before it is.

use std::collections::{BTreeMap, VecDeque};

/// Puts answers, which come in any order, into that of their inputs.
#[derive(Debug)]
pub(crate) struct Order<T> {
    /// The first sequence number that has not been answered.
    next: u64,
    waiting: BTreeMap<u64, Option<T>>,
    ready: VecDeque<T>,
    ordered: bool,
}

impl<T> Order<T> {
    /// If not `ordered`, [`Order::answer`] releases at once, and only [`Order::mark`] keeps its place.
    pub fn new(ordered: bool) -> Self {
        Order { next: 1, waiting: BTreeMap::new(), ready: VecDeque::new(), ordered }
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
        self.waiting.insert(seq, answer);
        while let Some(answer) = self.waiting.remove(&self.next) {
            self.ready.extend(answer);
            self.next += 1;
        }
    }

    /// The next answer that may be released.
    pub fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// Whether nothing can be released before `seq` is answered.
    pub fn is_awaited(&self, seq: u64) -> bool {
        self.next == seq && self.ready.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
