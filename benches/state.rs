//! The stores of state and timers alone, without workers.
fn main() {}
