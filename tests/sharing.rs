//! Sessions that share workers, and batches that share trips, with real workers. Bounds are ratios: what one session gets done while another does so much.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pillion::{Code, Pillion, Session, SessionOptions};
use std::time::Duration;
use support::*;

async fn done(pillion: &Pillion, id: &str) -> u64 {
    let status = pillion.status(false).await.unwrap();
    status.sessions.iter().find(|session| session.session_id == id).map_or(0, |session| session.done_batches)
}

/// Keeps a session busy with batches that take so many milliseconds each; gives its id.
fn flood(session: Session, count: usize, millis: i64) -> (String, tokio::task::JoinHandle<()>) {
    let id = session.id().to_owned();
    let flooding = tokio::spawn(async move {
        let answers = exchange(session, (0..count).map(|_| numbers([millis]))).await;
        assert!(answers.iter().all(Result::is_ok));
    });
    (id, flooding)
}

#[test]
fn a_noisy_session_does_not_starve_a_light_one() {
    both_doors(|door| async move {
        let rig = Rig::new(door).await;
        let noisy = rig.open("sleep_milliseconds").await;
        let mut light = rig.open("sleep_milliseconds").await;
        // On both workers, with more in the queue than either gets done.
        let (id, flooding) = flood(noisy, 120, 25);
        while done(&rig.pillion, &id).await == 0 {}
        let before = done(&rig.pillion, &id).await;
        let mut answered = 0;
        while done(&rig.pillion, &id).await < before + 60 {
            ask(&mut light, numbers([1])).await.unwrap();
            answered += 1;
        }
        let noisy_done = done(&rig.pillion, &id).await - before;
        // It waits for at most one of their batches each time; with two workers a batch ends every 12 ms, so it may get more done, never much less.
        assert!(answered * 2 >= noisy_done, "{answered} batches beside {noisy_done} of the noisy session");
        flooding.await.unwrap();
        rig.end().await;
    });
}

#[test]
fn weights_divide_workers() {
    both_doors(|door| async move {
        let rig = Rig::with(door, |config| config.pool.max = 1).await;
        let weigh =
            |weight| rig.numbers("sleep_milliseconds").options(SessionOptions { weight: Some(weight), ..Default::default() }).open();
        let (heavy, light) = (weigh(4).await.unwrap(), weigh(1).await.unwrap());
        // The light one could use all of the time.
        let (light_id, light_flooding) = flood(light, 400, 5);
        while done(&rig.pillion, &light_id).await == 0 {}
        let (heavy_id, heavy_flooding) = flood(heavy, 240, 5);
        while done(&rig.pillion, &heavy_id).await == 0 {}
        let before = (done(&rig.pillion, &heavy_id).await, done(&rig.pillion, &light_id).await);
        while done(&rig.pillion, &heavy_id).await < before.0 + 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (heavy, light) = (done(&rig.pillion, &heavy_id).await - before.0, done(&rig.pillion, &light_id).await - before.1);
        let ratio = heavy as f64 / light as f64;
        assert!((2.8..5.6).contains(&ratio), "{heavy} batches to {light}");
        rig.pillion.cancel(&light_id).await.unwrap();
        heavy_flooding.await.unwrap();
        light_flooding.abort();
        rig.end().await;
    });
}

#[test]
fn weights_have_bounds() {
    both_doors(|door| async move {
        let rig = Rig::new(door).await;
        for weight in [0, 1001, u32::MAX] {
            let options = SessionOptions { weight: Some(weight), ..Default::default() };
            let error = rig.numbers("identity").options(options).open().await.err().unwrap();
            assert_eq!(error.code(), Code::OptionsInvalid, "{weight}");
        }
        rig.end().await;
    });
}

#[test]
fn coalesced_batches_are_answered_one_by_one() {
    both_doors(|door| async move {
        // Little credit, so that it is given back many times over.
        let rig = Rig::with(door, |config| config.limits.session_input_rows = 50).await;
        let options = SessionOptions { max_delay: Some(Duration::from_millis(2)), max_rows: Some(30), ..Default::default() };
        let session = rig.numbers("raise_on_13").options(options).open().await.unwrap();
        assert!(session.is_coalescing());
        let sizes = [1, 1, 3, 0, 2, 40, 1, 7];
        let mut next = 0;
        let batches: Vec<Vec<i64>> = (0..400)
            .map(|at| {
                let rows = (0..sizes[at % sizes.len()]).map(|_| {
                    next = (next + 1) % 1000;
                    next
                });
                rows.collect()
            })
            .collect();
        let answers = exchange(session, batches.iter().map(|values| numbers(values.iter().copied()))).await;
        assert_eq!(answers.len(), batches.len());
        let mut failed = 0;
        for (seq, (answer, sent)) in (1..).zip(answers.iter().zip(&batches)) {
            match answer {
                Ok(output) => {
                    assert_eq!(output.seq, seq);
                    assert_eq!(values(&output.batch), sent.iter().copied().map(Some).collect::<Vec<_>>());
                }
                Err(error) => {
                    failed += 1;
                    assert_eq!((error.seq(), error.code()), (Some(seq), Code::FunctionRaised));
                    let row = error.exception().unwrap().row.as_ref().unwrap().index as usize;
                    assert_eq!(sent[row], 13, "the row of its own batch");
                }
            }
        }
        assert_eq!(failed, batches.iter().filter(|values| values.contains(&13)).count());
        rig.end().await;
    });
}

#[test]
fn a_coalesced_batch_whose_worker_dies_costs_only_the_guilty() {
    both_doors(|door| async move {
        let rig = Rig::new(door).await;
        let options = SessionOptions { max_delay: Some(Duration::from_millis(20)), max_attempts: Some(1), ..Default::default() };
        let session = rig.numbers("exit_on_13").options(options).open().await.unwrap();
        let answers = exchange(session, (0..30).map(|value| numbers([value]))).await;
        for (value, answer) in answers.iter().enumerate() {
            match answer {
                Ok(output) => assert_eq!(values(&output.batch), [Some(value as i64)]),
                Err(error) => assert_eq!((value, error.code()), (13, Code::WorkerDied)),
            }
        }
        assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 1);
        rig.end().await;
    });
}
