//! Loading: what a worker is asked outside of bundles, one question at a time.

use crate::{
    config::Limits,
    error::{Code, Error},
    pool::{Lease, Pool},
    worker::{FromWorker, KillCause, ToWorker},
};
use pillion_wire::proto;
use std::sync::Arc;
use tokio::time::{Instant, timeout};

/// Loads a plan on a worker and waits for the answer.
pub(super) async fn prepare(
    pool: &Arc<Pool>,
    plan_id: u64,
    prepare: Arc<proto::Prepare>,
    limits: &Limits,
) -> Result<(proto::Prepared, proto::EnvironmentDescription), Error> {
    let (mut lease, answer) = load(pool, plan_id, limits, || ToWorker::Prepare { plan_id, prepare: prepare.clone() }).await?;
    match answer {
        FromWorker::Prepared(prepared) => {
            lease.set_prepared(plan_id);
            Ok((prepared, environment(&lease)))
        }
        FromWorker::Refused(error) => Err(error),
        other => Err(out_of_turn(&mut lease, &other).await),
    }
}

/// Describes a function on a worker.
pub(crate) async fn describe(
    pool: &Arc<Pool>,
    function: proto::FunctionSpec,
    limits: &Limits,
) -> Result<(proto::FunctionDescription, proto::EnvironmentDescription), Error> {
    // No plan: any worker will do.
    let (mut lease, answer) = load(pool, 0, limits, || ToWorker::Describe { function: function.clone() }).await?;
    match answer {
        FromWorker::Described(description) => Ok((*description, environment(&lease))),
        FromWorker::Refused(error) => Err(error),
        other => Err(out_of_turn(&mut lease, &other).await),
    }
}

fn environment(lease: &Lease) -> proto::EnvironmentDescription {
    lease.control().map(|control| control.environment().clone()).unwrap_or_default()
}

/// Leases a worker and asks it something; asks another one if that worker was ended from outside, as often as a bundle is tried then.
async fn load(
    pool: &Arc<Pool>,
    plan_id: u64,
    limits: &Limits,
    message: impl Fn() -> ToWorker + Send,
) -> Result<(Lease, FromWorker), Error> {
    let mut attempts = 1;
    loop {
        let mut lease = pool.lease_to_load(plan_id).await?;
        lease.send(message());
        match ask(&mut lease, limits).await {
            Ok(answer) => return Ok((lease, answer)),
            Err(error) if error.is_retryable() && attempts < limits.max_attempts_outside => {
                tracing::warn!(attempts, "a worker was ended from outside while it loaded a function; another one tries");
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The answer, or why there is none; retryable if the worker was ended, or stopped, from outside.
async fn ask(lease: &mut Lease, limits: &Limits) -> Result<FromWorker, Error> {
    let deadline = limits.prepare_deadline;
    let begun = Instant::now();
    loop {
        // One that something outside has stopped is not given the time for loading.
        let patience = deadline.saturating_sub(begun.elapsed()).min(limits.slow_bundle);
        match timeout(patience, lease.recv()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(lost)) => {
                let outside = lost.outside;
                let error = lost.into_error(1);
                return Err(if outside { error.retryable() } else { error });
            }
            Err(_) => {}
        }
        let control = lease.control();
        if control.as_ref().is_some_and(|control| control.is_stopped()) {
            let lost = lease.kill(KillCause::Deadline).await;
            let message = "something outside stopped the worker while it loaded the function";
            return Err(Error::new(Code::DeadlineExceeded, message).worker(lost.loss).retryable());
        }
        if begun.elapsed() >= deadline {
            let stacks = match control {
                Some(control) => control.stacks().await.unwrap_or_default(),
                None => String::new(),
            };
            let mut lost = lease.kill(KillCause::Deadline).await;
            lost.loss.stacks = stacks;
            let message = format!("loading the function took longer than {deadline:?}");
            return Err(Error::new(Code::DeadlineExceeded, message)
                .hint("raise `limits.prepare_deadline` if it is legitimate")
                .worker(lost.loss));
        }
    }
}

async fn out_of_turn(lease: &mut Lease, message: &FromWorker) -> Error {
    let lost = lease.kill(KillCause::Protocol).await;
    Error::new(Code::ProtocolViolation, "the worker answered out of turn").detail(format!("{message:?}")).worker(lost.loss)
}
