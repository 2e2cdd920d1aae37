//! What functions log through Python's `logging`, as events of the engine's own log.

use pillion_wire::proto;

/// Hands on what came from worker `worker`, or, if that is empty, from whom each record names.
pub fn emit(worker: &str, batch: &proto::LogBatch) {
    if batch.dropped > 0 {
        tracing::warn!(target: "pillion::worker::log", worker, dropped = batch.dropped, "log records were dropped");
    }
    for record in &batch.records {
        event(if worker.is_empty() { &record.worker_id } else { worker }, record);
    }
}

/// One record, with the worker and function it came from.
fn event(worker: &str, record: &proto::LogRecord) {
    let proto::LogRecord { logger, message, session_id: session, function, file, line, .. } = record;
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(target: "pillion::worker::log", worker, logger, session, function, file, line, "{message}")
        };
    }
    match record.level {
        40.. => event!(error),
        30.. => event!(warn),
        20.. => event!(info),
        _ => event!(debug),
    }
}
