//! A batch on its caller's own thread.

use super::{
    link::Link,
    session::{Output, Session},
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::Answer,
};
use arrow_array::RecordBatch;

impl Session {
    /// Runs the function over a batch on the calling thread, and gives the result: the shortest way there is, without any other thread. For embedded engines and
    /// environments in thread mode ([`EnvironmentSpec::in_threads`](crate::EnvironmentSpec::in_threads)). Everything else is as with [`Session::send`] and
    /// [`Session::recv`], which may be used before and after, as long as no result is outstanding.
    ///
    /// Blocks as long as the function runs, and while all workers of the pool are busy: do not call it in an async task. The thread keeps what Python remembers of
    /// it until it ends.
    ///
    /// # Errors
    /// [`Code::Unsupported`] with a sidecar, in process mode, with `max_delay`, or with results outstanding; [`Code::SchemaMismatch`], [`Code::BatchTooLarge`]: nothing was
    /// executed and the session goes on. An error with [`Error::seq`] says that this batch failed; any other one ends the session.
    pub fn call_here(&mut self, batch: RecordBatch) -> Result<Output> {
        let (input, output) = self.halves();
        let Some(sender) = input.straight() else {
            return Err(Error::new(Code::Unsupported, "a session whose small batches travel together runs nothing on its caller's thread")
                .hint("open it without `max_delay`"));
        };
        let Link::Embedded(session) = sender.link() else {
            return Err(Error::new(Code::Unsupported, "a sidecar runs functions in a process of its own, not on this thread")
                .hint("use `Pillion::embedded`, or `send` and `recv`"));
        };
        let session = session.clone();
        sender.check(&batch)?;
        let seq = sender.next_seq();
        let answer = session.call_here(seq, Batch::Arrow(batch)).inspect(|_| sender.advance(seq))?;
        match answer {
            Answer::Batch { seq, result, timing, metrics, .. } => {
                let (_, batch) = output.output(0, result?).map_err(|error| error.at(seq))?;
                Ok(Output { seq, tag: None, batch, timing, metrics })
            }
            _ => Err(Error::new(Code::InvariantBroken, "the answer to a batch is something else")),
        }
    }
}
