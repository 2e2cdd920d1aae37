//! The catalogue of error codes (DESIGN D10).
//!
//! A code is a stable slug: never reused, never renamed. `docs/errors.md` says for each who can act on it and how; a test keeps the two in step.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $slug:literal,)+) => {
        /// Why something failed, as a stable slug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order of the catalogue.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The slug that travels and is shown, for example `function_raised`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $slug,)+
                }
            }

            /// The meaning in one sentence, as documented.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Code::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }

            /// The code of a slug, or `None` for one this build does not know.
            pub fn parse(slug: &str) -> Option<Code> {
                match slug {
                    $($slug => Some(Code::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    // User code.
    /// User code raised an exception.
    FunctionRaised = "function_raised",
    /// The module or file has no such name.
    FunctionNotFound = "function_not_found",
    /// The file or module with the function does not exist.
    ModuleNotFound = "module_not_found",
    /// The user's module failed while it was imported.
    ImportFailed = "import_failed",
    /// The named object is not a function that Pillion can run.
    NotAFunction = "not_a_function",
    /// The declaration of the function is wrong.
    DeclarationInvalid = "declaration_invalid",
    /// The function's `open` raised.
    OpenFailed = "open_failed",
    /// The plan gives the function a wrong number of columns.
    ArgumentCount = "argument_count",
    /// The type of an argument does not fit the declaration.
    ArgumentType = "argument_type",
    /// The result has a type that cannot become the declared one.
    ResultType = "result_type",
    /// The result has a wrong number of rows.
    ResultLength = "result_length",
    /// The result has a null where the declaration allows none.
    ResultNull = "result_null",
    /// The columns of a map function's result differ from its declaration.
    ResultColumns = "result_columns",
    /// A column has a type that this kind of function cannot be given.
    UnsupportedType = "unsupported_type",
    /// The function needs a package that its environment does not have.
    PackageMissing = "package_missing",
    /// Functions sent as pickles are switched off.
    PickleRefused = "pickle_refused",
    /// A metric of the function has an impossible name, or exists as another kind.
    MetricInvalid = "metric_invalid",

    // Environments.
    /// No environment of this name is configured.
    EnvironmentNotFound = "environment_not_found",
    /// The description of the environment is wrong or inconsistent.
    EnvironmentInvalid = "environment_invalid",
    /// Environments described by hosts are switched off; only configured ones are taken.
    EnvironmentRefused = "environment_refused",
    /// A file or folder that the environment names does not exist or cannot be read.
    EnvironmentFileMissing = "environment_file_missing",
    /// No such Python interpreter is installed.
    InterpreterNotFound = "interpreter_not_found",
    /// The Python interpreter cannot run the worker: too old, not CPython, or not for this platform.
    InterpreterUnsupported = "interpreter_unsupported",
    /// The Python interpreter cannot be loaded into this process, as thread mode needs it.
    InterpreterNotLoadable = "interpreter_not_loadable",
    /// Another interpreter or thread-mode environment occupies this process, which has room for one.
    InterpreterTaken = "interpreter_taken",
    /// The requirements cannot be installed.
    RequirementsFailed = "requirements_failed",
    /// The cache folder cannot be written.
    CacheUnwritable = "cache_unwritable",
    /// This build carries no worker package, or a damaged one.
    WorkerPackageMissing = "worker_package_missing",

    // Workers.
    /// The fork server of an environment could not be started.
    EnvironmentStartFailed = "environment_start_failed",
    /// A worker could not be started, or was not ready in time.
    WorkerStartFailed = "worker_start_failed",
    /// The worker that ran the bundle died, more often than it is tried again.
    WorkerDied = "worker_died",
    /// The bundle took longer than its deadline, more often than it is tried again.
    DeadlineExceeded = "deadline_exceeded",
    /// The worker used more memory than its limit, more often than it is tried again.
    MemoryExceeded = "memory_exceeded",

    // Sessions and data.
    /// The batch is larger than the limit.
    BatchTooLarge = "batch_too_large",
    /// The schema of a batch differs from that of the session.
    SchemaMismatch = "schema_mismatch",
    /// The plan of a session is inconsistent.
    PlanInvalid = "plan_invalid",
    /// An option of the session is out of its bounds.
    OptionsInvalid = "options_invalid",
    /// No such session is open.
    SessionNotFound = "session_not_found",
    /// The session was closed or its input was finished.
    SessionClosed = "session_closed",
    /// More sessions than the limit.
    SessionLimit = "session_limit",
    /// The session was cancelled.
    Cancelled = "cancelled",
    /// The engine is draining and takes no new sessions.
    Draining = "draining",

    // State, timers and checkpoints.
    /// A key has a type without equality, or one that changed since the state was written.
    KeyType = "key_type",
    /// A key is null where none may be.
    KeyNull = "key_null",
    /// A cell is used that the function did not declare before its first bundle.
    StateUndeclared = "state_undeclared",
    /// The function used state, timers or the current key without a key, or outside of a call.
    StateWithoutKey = "state_without_key",
    /// The function changed broadcast state outside of a broadcast element.
    StateReadOnly = "state_read_only",
    /// A value of a cell, or what is done with it, does not fit the cell's declaration.
    StateType = "state_type",
    /// The bytes of a stored key or value are damaged, or not of the declared type.
    StateDamaged = "state_damaged",
    /// The state of one bundle is larger than one answer can hold.
    StateTooLarge = "state_too_large",
    /// There is no room for the bundle's state: the disk is full, or a limit is reached.
    StateFull = "state_full",
    /// The state store cannot be read or written.
    StateFailed = "state_failed",
    /// The host that keeps the state did not answer, or answered with a failure.
    StateHostFailed = "state_host_failed",
    /// The timestamp of a timer is out of the range of its type.
    TimerOutOfRange = "timer_out_of_range",
    /// Another session has the key groups of this one.
    Fenced = "fenced",
    /// No checkpoint has this handle.
    SnapshotUnknown = "snapshot_unknown",
    /// A file of a checkpoint is missing or damaged.
    SnapshotDamaged = "snapshot_damaged",
    /// The checkpoint was written by a newer version.
    SnapshotVersion = "snapshot_version",
    /// The checkpoint is of another function, or does not fit this session.
    SnapshotMismatch = "snapshot_mismatch",
    /// A checkpoint cannot be written or deleted where it should be.
    SnapshotFailed = "snapshot_failed",
    /// A cell's type differs from that in the checkpoint.
    StateTypeChanged = "state_type_changed",

    // Connections and protocol.
    /// Nothing answers at the endpoint.
    ConnectFailed = "connect_failed",
    /// Something answers at the endpoint that is not a Pillion sidecar.
    NotASidecar = "not_a_sidecar",
    /// The connection broke.
    ConnectionLost = "connection_lost",
    /// The peer speaks a protocol version that this build does not know.
    ProtocolVersion = "protocol_version",
    /// A peer broke the rules of the protocol.
    ProtocolViolation = "protocol_violation",
    /// What was asked is not supported by this build or this peer.
    Unsupported = "unsupported",
    /// A worker connected without the id and token it was started with.
    Unauthenticated = "unauthenticated",

    // The sidecar itself.
    /// The configuration is wrong.
    ConfigInvalid = "config_invalid",
    /// The address cannot be listened on.
    ListenFailed = "listen_failed",
    /// The operating system refused something that Pillion needs.
    SystemRefused = "system_refused",
    /// A bug in Pillion: an invariant does not hold.
    InvariantBroken = "invariant_broken",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Code;
    use std::collections::HashSet;

    #[test]
    fn slugs_are_unique_and_parse_back() {
        let mut seen = HashSet::new();
        for &code in Code::ALL {
            assert!(seen.insert(code.as_str()), "`{code}` stands twice");
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "`{code}` is no slug");
        }
    }

    /// The whole list, so that a removed or renamed code is noticed.
    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../docs/errors.md");
        for &code in Code::ALL {
            assert!(page.contains(&format!("`{code}`")), "`{code}` is missing in `docs/errors.md`");
        }
    }
}
