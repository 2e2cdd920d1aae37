//! Opening a session: everything that can be wrong is found here, before the first batch.

use super::{Behaviour, Described, MAX_WEIGHT, Seen, Session, SessionPlan, Stores, keyed, load};
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    metrics::BatchMetrics,
    pool::Pool,
    state::host::Keeper,
    trace,
};
use bytes::Bytes;
use pillion_wire::{MAX_HEADERS_BYTES, ipc, proto};
use std::{sync::Arc, time::Duration};

/// A deadline that does not come, and can still be added to the time.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a host asks for.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    /// What to compute.
    pub plan: proto::Plan,
    /// IPC schema message of the inputs.
    pub input_schema: Bytes,
    /// Overrides of the defaults.
    pub options: proto::SessionOptions,
    /// For logs and metrics.
    pub name: String,
    /// W3C trace context of the operator; empty if none.
    pub traceparent: String,
    /// Set for keyed sessions.
    pub keyed: Option<proto::KeyedOptions>,
    /// Who keeps the state, with the backend `host`.
    pub state_host: Option<Keeper>,
}

/// Ids that the engine hands out.
#[derive(Clone, Debug)]
pub struct Ids {
    /// Of the session.
    pub session: String,
    /// Of its plan.
    pub plan: u64,
}

/// Checks the request and loads the plan on one worker of `pool`. Hosts may read results in place if the environment is `trusted`.
///
/// # Errors
/// Whatever is wrong with the plan, the function or its environment.
pub async fn open(
    pool: Arc<Pool>,
    request: OpenRequest,
    ids: Ids,
    environment: (&str, bool),
    limits: &Limits,
    stores: &Stores,
) -> Result<Arc<Session>> {
    check(&request)?;
    if pool.shares_process() && request.options.bundle_deadline_ms != 0 {
        return Err(Error::new(Code::Unsupported, "thread mode has no deadline, because a function that hangs cannot be ended")
            .hint("open the session without a deadline, or run its environment in process mode"));
    }
    let mut behaviour = behaviour(&request.options, limits, pool.max());
    if pool.shares_process() {
        // What hangs is reported by `slow_bundle`, and abandoned when its session is cancelled.
        behaviour.deadline = NEVER;
    }
    let keyed_plan = request.keyed.as_ref().map(|keyed| keyed::plan(keyed, &request.input_schema));
    let prepare = Arc::new(proto::Prepare {
        plan: Some(request.plan.clone()),
        input_schema: request.input_schema.clone(),
        on_error: request.options.on_error.max(proto::OnError::Fail as i32) as u32,
        session_id: ids.session.clone(),
        session_name: request.name.clone(),
        keyed: keyed_plan,
        max_metric_series: limits.metric_series,
    });
    pool.keep_plan(ids.plan, behaviour.weight);
    let prepared = load::prepare(&pool, ids.plan, prepare.clone(), limits).await;
    let (id, trusted) = (environment.0.to_owned(), environment.1);
    let (prepared, environment) = prepared.inspect_err(|_| pool.retire_plan(ids.plan))?;
    let environment = proto::EnvironmentDescription { id, ..environment };
    let functions = prepared.functions.iter().map(|function| function.name.as_str()).collect::<Vec<_>>().join(", ");
    let described = Described { output_schema: prepared.output_schema.into(), functions: prepared.functions, environment, trusted };
    let plan = SessionPlan { id: ids.plan, prepare: prepare.clone(), functions, fetcher: None };
    let (id, name, traceparent) = (ids.session, request.name, request.traceparent);
    let session = match &request.keyed {
        None => {
            refuse_process(&described).inspect_err(|_| pool.retire_plan(ids.plan))?;
            let span = trace::session(&id, &name, &traceparent, &plan.functions);
            let metrics = BatchMetrics::new(&plan.functions, limits.metric_series);
            Session::new(Seen { id, name, span, metrics }, plan, behaviour, described, pool, None)
        }
        Some(options) => {
            let parts = keyed::Parts { id, name, traceparent, plan, behaviour, described, pool: pool.clone() };
            keyed::start(parts, options, &prepare, stores, request.state_host).await.inspect_err(|_| pool.retire_plan(ids.plan))?
        }
    };
    session.span.in_scope(|| tracing::debug!("session opened"));
    Ok(session)
}

/// A function that keeps state needs a session that keeps it.
fn refuse_process(described: &Described) -> Result<()> {
    match described.functions.iter().find(|function| function.kind == "process") {
        None => Ok(()),
        Some(function) => Err(Error::new(Code::PlanInvalid, format!("`{}` keeps state, but the session is not keyed", function.name))
            .hint("open a keyed session; on the command line name the keys with `--key-by`")),
    }
}

fn behaviour(options: &proto::SessionOptions, limits: &Limits, pool_max: usize) -> Behaviour {
    let or = |value: u64, default: Duration| if value == 0 { default } else { Duration::from_millis(value) };
    Behaviour {
        ordered: !options.unordered,
        deadline: or(options.bundle_deadline_ms, limits.bundle_deadline),
        max_attempts: if options.max_attempts == 0 { limits.max_attempts } else { options.max_attempts },
        max_workers: match options.max_workers as usize {
            0 => pool_max,
            wanted => wanted.min(pool_max),
        },
        weight: if options.weight == 0 { limits.session_weight.clamp(1, MAX_WEIGHT) } else { options.weight },
        limits: limits.clone(),
    }
}

fn check(request: &OpenRequest) -> Result<()> {
    match proto::OnError::try_from(request.options.on_error) {
        Ok(proto::OnError::Unspecified | proto::OnError::Fail | proto::OnError::Null) => {}
        // Whether its function can is found out where it is loaded.
        Ok(proto::OnError::Skip | proto::OnError::Side) if request.keyed.is_some() => {}
        Ok(proto::OnError::Skip | proto::OnError::Side) => {
            return Err(
                Error::new(Code::Unsupported, "only rows of keyed sessions can be skipped or put aside").hint("use `fail` or `null`")
            );
        }
        Err(_) => return Err(Error::new(Code::ProtocolViolation, "`on_error` has an unknown value")),
    }
    if request.options.weight > MAX_WEIGHT {
        let message = format!("a weight of {} is over the largest, {MAX_WEIGHT}", request.options.weight);
        return Err(Error::new(Code::OptionsInvalid, message).hint("weights count only beside those of other sessions; take smaller ones"));
    }
    check_schema(&request.input_schema)?;
    let schema = ipc::schema_from_ipc(&request.input_schema)
        .map_err(|error| Error::new(Code::ProtocolViolation, "the input schema cannot be read").detail(error.to_string()))?;
    check_plan(&request.plan, schema.fields().len())?;
    match &request.keyed {
        Some(keyed) => keyed::check(keyed, request),
        None => Ok(()),
    }
}

/// Refuses a schema that fits in no message: it goes to each worker. The header of a batch is smaller than its schema's.
///
/// # Errors
/// [`Code::UnsupportedType`].
pub fn check_schema(schema: &[u8]) -> Result<()> {
    if schema.len() as u64 <= MAX_HEADERS_BYTES {
        return Ok(());
    }
    let message = format!("the schema of the input takes {} bytes, more than the {MAX_HEADERS_BYTES} that fit in a message", schema.len());
    Err(Error::new(Code::UnsupportedType, message).hint("send fewer columns"))
}

/// Every argument and output must name an input column or an earlier call.
fn check_plan(plan: &proto::Plan, columns: usize) -> Result<()> {
    let invalid = |message: String| Err(Error::new(Code::PlanInvalid, message));
    if plan.calls.is_empty() {
        return invalid("the plan has no calls".into());
    }
    for (at, call) in plan.calls.iter().enumerate() {
        if call.function.as_ref().is_none_or(|function| function.source.is_none()) {
            return invalid(format!("call {at} names no function"));
        }
        for argument in &call.arguments {
            check_argument(argument, columns, at)?;
        }
    }
    if plan.outputs.is_empty() && plan.calls.len() > 1 {
        return invalid("a plan of several calls must say its outputs".into());
    }
    plan.outputs.iter().try_for_each(|output| match &output.source {
        Some(source) => check_argument(source, columns, plan.calls.len()),
        None => invalid(format!("output `{}` has no source", output.name)),
    })
}

fn check_argument(argument: &proto::Argument, columns: usize, calls: usize) -> Result<()> {
    use proto::argument::Source;
    let message = match argument.source {
        Some(Source::Column(column)) if (column as usize) < columns => return Ok(()),
        Some(Source::Call(call)) if (call as usize) < calls => return Ok(()),
        Some(Source::Column(column)) => format!("the plan uses column {column}, the input has {columns}"),
        Some(Source::Call(call)) => format!("the plan uses the result of call {call} before it is there"),
        None => "an argument of the plan has no source".into(),
    };
    Err(Error::new(Code::PlanInvalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::argument::Source;

    fn argument(source: Source) -> proto::Argument {
        proto::Argument { source: Some(source) }
    }

    fn plan(arguments: Vec<proto::Argument>, outputs: Vec<Source>) -> proto::Plan {
        let function = proto::FunctionSpec {
            source: Some(proto::function_spec::Source::Module(proto::ModuleFunction { module: "m".into(), name: "f".into() })),
            ..Default::default()
        };
        let call = proto::Call { function: Some(function), arguments };
        let outputs = outputs.into_iter().map(|source| proto::OutputColumn { name: "o".into(), source: Some(argument(source)) }).collect();
        proto::Plan { calls: vec![call], outputs }
    }

    #[test]
    fn plans_are_checked() {
        let code = |plan: proto::Plan| check_plan(&plan, 2).map_err(|error| error.code()).err();
        assert_eq!(code(plan(vec![argument(Source::Column(1))], vec![Source::Call(0)])), None);
        assert_eq!(code(plan(vec![argument(Source::Column(2))], vec![])), Some(Code::PlanInvalid));
        assert_eq!(code(plan(vec![argument(Source::Call(0))], vec![])), Some(Code::PlanInvalid), "a call cannot use itself");
        assert_eq!(code(plan(vec![], vec![Source::Call(1)])), Some(Code::PlanInvalid));
        assert_eq!(code(plan(vec![proto::Argument { source: None }], vec![])), Some(Code::PlanInvalid));
        assert_eq!(code(proto::Plan::default()), Some(Code::PlanInvalid));
    }
}
