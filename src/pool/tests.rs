use super::*;
use crate::worker::fake::{Act, FakeFactory};
use std::sync::atomic::Ordering;

fn pool(config: PoolConfig) -> (Arc<Pool>, Arc<FakeFactory>) {
    let factory = FakeFactory::new(|_, _| Act::Echo);
    let limits = PoolLimits { pool: config, shutdown_grace: Duration::from_millis(100) };
    (Pool::new("test".into(), factory.clone(), limits), factory)
}

fn config(max: usize) -> PoolConfig {
    PoolConfig { max, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_returned_worker_is_used_again() {
    let (pool, factory) = pool(config(2));
    for _ in 0..10 {
        drop(pool.lease(0).await.unwrap());
    }
    assert_eq!(factory.started.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn leases_are_given_first_come_first_served_up_to_the_maximum() {
    let (pool, factory) = pool(config(1));
    let first = pool.lease(0).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting: Vec<_> = (0..5)
        .map(|turn| {
            let (pool, order) = (pool.clone(), order.clone());
            tokio::spawn(async move {
                let lease = pool.lease(0).await.unwrap();
                order.lock().unwrap().push(turn);
                drop(lease);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.lock().line.len(Instant::now()), 5);
    assert!(!pool.is_due(0), "nobody gives way to its own");
    drop(first);
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(factory.started.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_loses_nothing_for_the_others() {
    let (pool, _) = pool(config(1));
    let first = pool.lease(0).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(5), pool.lease(0)).await;
    assert!(given_up.is_err());
    drop(first);
    drop(pool.lease(0).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_answers_one_waiter() {
    let (pool, factory) = pool(config(2));
    factory.failing_starts.store(1, Ordering::SeqCst);
    let (a, b) = tokio::join!(pool.lease(0), pool.lease(0));
    assert_eq!([a.is_ok(), b.is_ok()].into_iter().filter(|&ok| ok).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_workers_beyond_the_minimum_end() {
    let (pool, factory) = pool(PoolConfig { min: 1, max: 3, idle_timeout: Duration::from_secs(2), ..Default::default() });
    let leases = tokio::join!(pool.lease(0), pool.lease(0), pool.lease(0));
    assert_eq!(factory.alive.load(Ordering::SeqCst), 3);
    drop(leases);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(factory.alive.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_ending_are_not_counted_among_those_kept_ready() {
    let factory = FakeFactory::new(|_, _| Act::Echo);
    factory.closing.store(5_000, Ordering::SeqCst);
    let config = PoolConfig { min: 1, max: 3, idle_timeout: Duration::from_secs(2), ..Default::default() };
    let pool = Pool::new("test".into(), factory.clone(), PoolLimits { pool: config, shutdown_grace: Duration::from_secs(10) });
    drop(tokio::join!(pool.lease(0), pool.lease(0), pool.lease(0)));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let states: Vec<_> = pool.status(false).await.workers.into_iter().map(|worker| worker.state).collect();
    assert_eq!(states.iter().filter(|state| *state == "ending").count(), 2, "{states:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(factory.alive.load(Ordering::SeqCst), 1);
    assert_eq!(factory.started.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_grows_while_it_loads_is_killed() {
    let (pool, factory) = pool(PoolConfig { max_memory: Some(1000), ..config(1) });
    // Nothing is assigned to it: it is being asked to load something.
    let mut lease = pool.lease(0).await.unwrap();
    factory.private_bytes.store(1001, Ordering::SeqCst);
    assert_eq!(lease.recv().await.unwrap_err().loss.cause, "memory_limit");
}

#[tokio::test(start_paused = true)]
async fn the_minimum_is_kept_ready() {
    let (pool, factory) = pool(PoolConfig { min: 2, max: 3, ..Default::default() });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(factory.alive.load(Ordering::SeqCst), 2);
    drop(pool);
}

#[tokio::test(start_paused = true)]
async fn worn_out_workers_are_replaced_between_bundles() {
    let (pool, factory) = pool(PoolConfig { max: 1, max_requests: Some(3), ..Default::default() });
    for _ in 0..9 {
        pool.lease(0).await.unwrap().count_bundle();
    }
    assert_eq!(factory.started.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_worker_is_not_given_out_again() {
    let (pool, factory) = pool(config(1));
    let mut lease = pool.lease(0).await.unwrap();
    lease.kill(KillCause::Deadline).await;
    drop(lease);
    drop(pool.lease(0).await.unwrap());
    assert_eq!(factory.started.load(Ordering::SeqCst), 2);
    assert_eq!(factory.alive.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_that_dies_is_forgotten() {
    let (pool, factory) = pool(config(1));
    let control = pool.lease(0).await.unwrap().control().unwrap();
    control.kill(KillCause::Memory);
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(pool.lease(0).await.unwrap());
    assert_eq!(factory.started.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn workers_forget_the_plans_of_closed_sessions() {
    let (pool, factory) = pool(config(2));
    pool.keep_plan(7, 1);
    let mut idle = pool.lease(7).await.unwrap();
    let mut busy = pool.lease(7).await.unwrap();
    idle.set_prepared(7);
    busy.set_prepared(7);
    drop(idle);
    pool.retire_plan(7);
    drop(busy);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(*factory.released.lock().unwrap(), [7, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_given_back_during_a_shutdown_may_close() {
    let (pool, factory) = pool(config(1));
    let lease = pool.lease(0).await.unwrap();
    let ending = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(lease);
    ending.await.unwrap();
    assert_eq!(*factory.ends.lock().unwrap(), ["exit"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_nothing_is_left_and_nobody_waits() {
    let (pool, factory) = pool(config(1));
    let lease = pool.lease(0).await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lease(0).await.err().map(|error| error.code()) }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    pool.shutdown().await;
    assert_eq!(waiting.await.unwrap(), Some(Code::Draining));
    drop(lease);
    assert_eq!(factory.alive.load(Ordering::SeqCst), 0);
    assert_eq!(pool.lease(0).await.err().map(|error| error.code()), Some(Code::Draining));
}
