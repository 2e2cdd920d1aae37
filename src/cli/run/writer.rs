//! Writes an output on a thread of its own.

use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use tokio::sync::{mpsc, oneshot};

use crate::cli::io::{Output, Parts, Stop};

/// Batches that may wait for it.
const WAITING: usize = 2;

/// For the writing thread. A channel that closes without `Finish` means that the output is given up.
pub enum Write {
    Batch(RecordBatch),
    Cut(Cut),
    Finish,
}

/// Ends a part; what comes after it belongs to the next one.
pub struct Cut {
    pub number: u64,
    /// Also if it has no rows.
    pub always: bool,
    /// Told when it is on disk, and whether there is one. Dropped if it cannot be written.
    pub done: oneshot::Sender<bool>,
}

/// What is written to.
pub enum Destination {
    Whole(Output),
    Parts(Parts),
}

impl Destination {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), Stop> {
        match self {
            Destination::Whole(output) => output.write(batch),
            Destination::Parts(parts) => parts.write(batch),
        }
    }

    /// A whole output has no parts to end.
    fn cut(&mut self, cut: Cut) -> Result<(), Stop> {
        let Destination::Parts(parts) = self else { return Ok(()) };
        let is_part = parts.cut(cut.number, cut.always)?;
        // Whoever waited for it has given up, and with it the output.
        let _ = cut.done.send(is_part);
        Ok(())
    }

    fn finish(self) -> Result<(), Stop> {
        match self {
            Destination::Whole(output) => output.finish(),
            // They were ended by cuts.
            Destination::Parts(_) => Ok(()),
        }
    }
}

/// Starts the thread; gives where it takes batches, and what came of it: how long writing took.
pub fn spawn(mut destination: Destination) -> (mpsc::Sender<Write>, oneshot::Receiver<Result<Duration, Stop>>) {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let (told, outcome) = oneshot::channel();
    std::thread::spawn(move || {
        let mut busy = Duration::ZERO;
        while let Some(write) = receiver.blocking_recv() {
            let since = Instant::now();
            let written = match write {
                Write::Batch(batch) => destination.write(&batch),
                Write::Cut(cut) => destination.cut(cut),
                Write::Finish => {
                    let _ = told.send(destination.finish().map(|()| busy + since.elapsed()));
                    return;
                }
            };
            if let Err(stop) = written {
                let _ = told.send(Err(stop));
                return;
            }
            busy += since.elapsed();
        }
    });
    (sender, outcome)
}
