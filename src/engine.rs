//! The engine: everything behind both doors (DESIGN D5). It owns the environments, their pools, the sessions, and the endpoint that workers connect to.

use crate::{
    config::{Config, Limits},
    environment::{Environment, EnvironmentSpec, Environments, Mode},
    error::{Code, Error, Result},
    pool::{Pool, PoolLimits},
    server::fn_service::FnEndpoint,
    session::{self, Ids, OpenRequest, Session, Stores, claims::Claims},
    worker::{
        WorkerFactory,
        process::{LaunchLimits, LaunchSpec, Launcher, OutputLimits, link::ProcessFactory, ring_door::Memory},
        thread::{ThreadFactory, ThreadSettings},
    },
};
use pillion_wire::proto;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout};

/// One engine; a process needs only one.
pub struct Engine {
    config: Config,
    environments: Environments,
    endpoint: FnEndpoint,
    memory: Arc<Memory>,
    stores: Stores,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    sessions: Mutex<HashMap<String, Weak<Session>>>,
    /// Sessions that are being opened; changed under the lock of `sessions`.
    opening: AtomicUsize,
    session_ids: AtomicU64,
    plan_ids: AtomicU64,
    worker_ids: Arc<AtomicU64>,
    /// The deadline of the drain, once there is one.
    draining: watch::Sender<Option<Duration>>,
    /// Whether all workers have ended for good.
    stopped: watch::Sender<bool>,
    started: Instant,
}

impl Engine {
    /// Starts the endpoint for workers; environments and workers come when they are asked for. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// If the cache or runtime folder cannot be used.
    pub async fn start(config: Config) -> Result<Arc<Engine>> {
        let memory = Memory::new(config.shm.clone(), &config.limits);
        Ok(Arc::new(Engine {
            environments: Environments::new(&config)?,
            endpoint: FnEndpoint::bind(&config.runtime_dir, &config.limits, &memory)?,
            memory,
            stores: Stores { config: config.state.clone(), claims: Claims::default() },
            config,
            pools: Mutex::default(),
            sessions: Mutex::default(),
            opening: AtomicUsize::new(0),
            session_ids: AtomicU64::new(0),
            plan_ids: AtomicU64::new(0),
            worker_ids: Arc::default(),
            draining: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            started: Instant::now(),
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The memory that the engine shares with workers and hosts.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Loads a function in its environment and says what it is.
    ///
    /// # Errors
    /// Whatever is wrong with the function or its environment.
    pub async fn describe(&self, function: proto::FunctionSpec, environment: &EnvironmentSpec) -> Result<proto::DescribeResponse> {
        self.refuse_while_draining()?;
        self.refuse_pickles([&function])?;
        let (environment, pool) = self.pool(environment).await?;
        let (function, described) = session::describe(&pool, function, &self.config.limits).await?;
        let environment = proto::EnvironmentDescription { id: environment.id.clone(), ..described };
        Ok(proto::DescribeResponse { function: Some(function), environment: Some(environment) })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// Whatever is wrong with the plan, its functions or their environment; [`Code::SessionLimit`]; [`Code::Draining`].
    pub async fn open(&self, request: OpenRequest, environment: &EnvironmentSpec) -> Result<Arc<Session>> {
        self.refuse_while_draining()?;
        self.refuse_pickles(request.plan.calls.iter().filter_map(|call| call.function.as_ref()))?;
        let ids = Ids {
            session: format!("s-{}", self.session_ids.fetch_add(1, Ordering::Relaxed) + 1),
            plan: self.plan_ids.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let opening = self.reserve()?;
        let (environment, pool) = self.pool(environment).await?;
        let session = session::open(pool, request, ids, (&environment.id, environment.trusted), &self.config.limits, &self.stores).await?;
        let mut sessions = self.sessions();
        // A drain that began meanwhile does not know of this session.
        self.refuse_while_draining()?;
        sessions.retain(|_, session| session.strong_count() > 0);
        sessions.insert(session.id().to_owned(), Arc::downgrade(&session));
        // Within the lock, so that nobody counts it twice.
        drop(opening);
        Ok(session)
    }

    /// A place for one more session, kept while it is opened.
    fn reserve(&self) -> Result<Opening<'_>> {
        let sessions = self.sessions();
        let open = sessions.values().filter(|session| session.upgrade().is_some_and(|session| !session.is_over())).count();
        let max = self.config.limits.max_sessions;
        if open + self.opening.load(Ordering::Relaxed) >= max {
            let message = format!("{max} sessions are open, which is the limit");
            return Err(Error::new(Code::SessionLimit, message).hint("close some, or raise `limits.max_sessions`").retryable());
        }
        self.opening.fetch_add(1, Ordering::Relaxed);
        Ok(Opening(&self.opening))
    }

    /// Cancels a session; false if none of this id is open.
    pub fn cancel(&self, session_id: &str) -> bool {
        let session = self.sessions().get(session_id).and_then(Weak::upgrade).filter(|session| !session.is_over());
        if let Some(session) = &session {
            session.cancel(Error::new(Code::Cancelled, "the session was cancelled"));
        }
        session.is_some()
    }

    /// What the engine is doing; with `stacks`, down to the threads of its workers.
    pub async fn status(&self, stacks: bool) -> proto::StatusResponse {
        let pools: Vec<_> = self.pools().values().cloned().collect();
        let mut pool_status = Vec::with_capacity(pools.len());
        for pool in pools {
            pool_status.push(pool.status(stacks).await);
        }
        proto::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            draining: self.is_draining(),
            sessions: self.open_sessions().iter().map(|session| session.status()).collect(),
            pools: pool_status,
        }
    }

    /// True once no new session is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.borrow().is_some()
    }

    /// Refuses new sessions from now on and asks whoever serves the engine to drain it; gives the number of open sessions.
    pub fn begin_drain(&self, deadline: Duration) -> usize {
        self.draining.send_if_modified(|draining| draining.replace(deadline).is_none());
        self.open_sessions().len()
    }

    /// The deadline of the drain, once somebody has asked for one; ends with the engine.
    pub fn draining(&self) -> watch::Receiver<Option<Duration>> {
        self.draining.subscribe()
    }

    /// Resolves with the deadline when somebody asked for a drain.
    pub async fn drain_asked(&self) -> Duration {
        let mut asked = self.draining();
        match asked.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_default(),
            // Cannot be: the sender lives as long as the engine.
            Err(_) => Duration::ZERO,
        }
    }

    /// Refuses new sessions, answers what the open ones have sent, and ends them; what is open after `deadline` is cancelled. False if some were.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.begin_drain(deadline);
        for session in self.open_sessions() {
            session.drain(
                Error::new(Code::Draining, "the sidecar shuts down; what was not answered had no effect")
                    .hint("send the rest to another one")
                    .retryable(),
            );
        }
        let emptied = timeout(deadline, async {
            // Sessions end when their hosts have read the last answer; looking now and then is enough.
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !self.open_sessions().is_empty() {
                ticks.tick().await;
            }
        });
        let in_time = emptied.await.is_ok();
        for session in self.open_sessions() {
            session.cancel(Error::new(Code::Draining, "the sidecar shut down before the session was over").retryable());
        }
        in_time
    }

    /// Ends all sessions and workers. Afterwards no child process is left. Idempotent.
    pub async fn shutdown(&self) {
        self.begin_drain(Duration::ZERO);
        for session in self.open_sessions() {
            session.cancel(Error::new(Code::Draining, "the engine is shutting down").retryable());
        }
        let pools: Vec<_> = self.pools().drain().map(|(_, pool)| pool).collect();
        let ends: Vec<_> = pools.into_iter().map(|pool| tokio::spawn(async move { pool.shutdown().await })).collect();
        for end in ends {
            // A panic in there was reported where it happened.
            let _ = end.await;
        }
        self.stopped.send_replace(true);
        self.endpoint.close();
    }

    /// Whether all workers have ended for good.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    fn refuse_while_draining(&self) -> Result<()> {
        if self.is_draining() {
            return Err(Error::new(Code::Draining, "the sidecar is shutting down and takes no new sessions")
                .hint("try another one")
                .retryable());
        }
        Ok(())
    }

    fn refuse_pickles<'a>(&self, functions: impl IntoIterator<Item = &'a proto::FunctionSpec>) -> Result<()> {
        let pickled = |function: &proto::FunctionSpec| matches!(function.source, Some(proto::function_spec::Source::Pickled(_)));
        if !self.config.functions.allow_pickled && functions.into_iter().any(pickled) {
            return Err(Error::new(Code::PickleRefused, "functions sent by value are switched off")
                .hint("name the function by file or module, or set `functions.allow_pickled = true` if every host is trusted"));
        }
        Ok(())
    }

    async fn pool(&self, spec: &EnvironmentSpec) -> Result<(Arc<Environment>, Arc<Pool>)> {
        let environment = self.environments.resolve(spec).await?;
        if environment.mode == Mode::Thread
            && let Some(found) = self.config.refused_by_threads()
        {
            return Err(Error::new(Code::Unsupported, format!("`{}`: {}", found.key, found.message)).hint(found.hint));
        }
        let mut pools = self.pools();
        // A shutdown that began meanwhile has emptied the pools and must not be given a new one.
        self.refuse_while_draining()?;
        let pool = match pools.get(&environment.id) {
            Some(pool) => pool.clone(),
            None => {
                let pool = self.make_pool(&environment);
                pools.insert(environment.id.clone(), pool.clone());
                pool
            }
        };
        Ok((environment, pool))
    }

    fn make_pool(&self, environment: &Environment) -> Arc<Pool> {
        let factory: Arc<dyn WorkerFactory> = match environment.mode {
            Mode::Process => Arc::new(self.processes(environment)),
            Mode::Thread => {
                let Limits { max_batch_bytes, max_batch_rows, .. } = self.config.limits;
                let settings =
                    ThreadSettings { result_bytes: max_batch_bytes, result_rows: max_batch_rows, spin: self.config.shm.spin.limit() };
                Arc::new(ThreadFactory::new(environment, settings, self.config.pool.start_timeout, self.worker_ids.clone()))
            }
        };
        let limits = PoolLimits { pool: self.config.pool.clone(), shutdown_grace: self.config.limits.shutdown_grace };
        Pool::new(environment.id.clone(), factory, limits)
    }

    fn processes(&self, environment: &Environment) -> ProcessFactory {
        let limits = &self.config.limits;
        let output = OutputLimits {
            line_bytes: limits.log_line_bytes as usize,
            lines_per_second: limits.log_lines_per_second,
            ..Default::default()
        };
        let launcher = Launcher::new(LaunchSpec {
            environment_id: environment.id.clone(),
            python: environment.python.clone(),
            package_dir: environment.package_dir.clone(),
            paths: environment.paths.clone(),
            variables: environment.variables.clone(),
            allow_pickled_functions: self.config.functions.allow_pickled,
            preload: environment.preload.clone(),
            start: environment.start,
            limits: LaunchLimits { start_timeout: self.config.pool.start_timeout, output, ..Default::default() },
            entry: LaunchSpec::ENTRY.to_owned(),
        });
        let registry = self.endpoint.registry().clone();
        ProcessFactory::new(launcher, registry, self.endpoint.address().to_owned(), self.config.pool.start_timeout, self.worker_ids.clone())
    }

    fn open_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().filter_map(Weak::upgrade).filter(|session| !session.is_over()).collect()
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<String, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Weak<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that is being opened counts among the open ones.
struct Opening<'a>(&'a AtomicUsize);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
