//! Stores in this process.

/// The requests of [`StateBackend`](super::StateBackend) of a store that answers at once, on the caller's thread: by its methods `get_now`, `lookup_now` and so on.
macro_rules! answers_at_once {
    () => {
        fn get<'a>(
            &'a self,
            request: &'a $crate::state::Get,
        ) -> $crate::worker::BoxFuture<'a, $crate::error::Result<Vec<$crate::state::Entries>>> {
            Box::pin(std::future::ready(self.get_now(request)))
        }

        fn lookup<'a>(
            &'a self,
            request: &'a $crate::state::Lookup,
        ) -> $crate::worker::BoxFuture<'a, $crate::error::Result<arrow_array::BinaryArray>> {
            Box::pin(std::future::ready(self.lookup_now(request)))
        }

        fn page<'a>(
            &'a self,
            request: &'a $crate::state::PageRequest,
        ) -> $crate::worker::BoxFuture<'a, $crate::error::Result<$crate::state::Page>> {
            Box::pin(std::future::ready(self.page_now(request)))
        }

        fn apply<'a>(&'a self, commit: &'a $crate::state::Commit) -> $crate::worker::BoxFuture<'a, $crate::error::Result<()>> {
            Box::pin(std::future::ready(self.apply_now(commit)))
        }

        fn due<'a>(
            &'a self,
            request: &'a $crate::timer::DueRequest,
        ) -> $crate::worker::BoxFuture<'a, $crate::error::Result<$crate::timer::DueTimers>> {
            Box::pin(std::future::ready(self.due_now(request)))
        }

        fn next_timer<'a>(
            &'a self,
            domain: $crate::timer::Domain,
            groups: &'a [u16],
        ) -> $crate::worker::BoxFuture<'a, $crate::error::Result<Option<i64>>> {
            Box::pin(std::future::ready(self.next_now(domain, groups)))
        }
    };
}

pub(crate) use answers_at_once;
