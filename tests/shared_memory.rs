//! Shared memory: inputs are read where they lie, hostile workers harm nobody, and nothing stays behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, cast::AsArray};
use pillion::{
    Code, EnvironmentSpec, Plan,
    config::{EnvironmentConfig, Requirements},
    host::Allocation,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{sync::Arc, time::Duration};
use support::*;

/// Descriptors of this process that are shared memory of Pillion, and mappings of it.
fn ours() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let files = files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().contains("memfd:pillion")));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (files.count(), maps.lines().filter(|line| line.contains("memfd:pillion")).count())
}

/// A process of its own for what counts descriptors: tests of one binary share theirs. Gives true in that process.
fn alone(test: &str) -> bool {
    if std::env::var_os("PILLION_TEST_ALONE").is_some() {
        return true;
    }
    let me = std::env::current_exe().unwrap();
    let status = std::process::Command::new(me).args(["--exact", test, "--nocapture"]).env("PILLION_TEST_ALONE", "1").status().unwrap();
    assert!(status.success(), "{test} failed in a process of its own");
    false
}

#[test]
fn inputs_lie_in_the_arena_and_are_read_only() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let requirements = ["numpy", "pandas", "pyarrow"].map(str::to_owned).to_vec();
        let environment = EnvironmentSpec { requirements, ..Default::default() };
        for name in ["where_arrow", "where_pandas"] {
            let plan = Plan::scalar(function_in("memory.py", name), vec![0], "r");
            let opened = rig.pillion.session(plan).environment(environment.clone()).input(numbers([1]).schema()).open().await;
            let mut session = opened.unwrap();
            // The first large batch may go inline while the host asks for an arena.
            let mut place = String::new();
            for _ in 0..3 {
                let answer = ask(&mut session, numbers(0..10_000)).await.unwrap();
                place = strings(&answer.batch)[0].clone().unwrap();
            }
            println!("{name}: {place}");
            let arena = match (transport(), door) {
                (Transport::Inline, _) => continue,
                (Transport::Shm, Door::Embedded) => "memfd:pillion-inputs",
                (Transport::Shm, _) => "memfd:pillion-session",
            };
            assert!(place.contains(arena) && place.contains("r--s"), "{place}");
            assert!(name != "where_pandas" || place.contains("read-only"), "{place}");
        }
        rig.end().await;
    });
}

/// A column of consecutive numbers, built where the session says.
fn built(session: &pillion::Session, rows: usize) -> RecordBatch {
    let mut room = session.allocate(Allocation::room::<i64>(rows));
    let mut part = room.part::<i64>(rows).unwrap();
    part.iter_mut().zip(0..).for_each(|(value, row)| *value = row);
    let column = Arc::new(Int64Array::new(part.freeze(), None)) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap()
}

/// The shared file that an address of this process lies in, and where in it.
fn place_of(address: usize) -> Option<(String, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let parts: Vec<_> = line.split_whitespace().collect();
        let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let (start, end) = parts[0].split_once('-').map(|(start, end)| (number(start), number(end))).unwrap();
        let inside = (start..end).contains(&address) && parts.len() > 5;
        inside.then(|| (parts[5].to_owned(), address - start + number(parts[2])))
    })
}

/// The worker sees the very bytes that the host wrote: at the same address in threads of this process, at the same place of the same file in another.
#[test]
fn what_a_host_builds_in_a_slot_is_not_copied() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            let requirements = ["numpy", "pandas", "pyarrow"].map(str::to_owned).to_vec();
            config.environments.entry("default".into()).or_default().requirements = Requirements::List(requirements);
        })
        .await;
        let plan = Plan::scalar(function_in("memory.py", "place_arrow"), vec![0], "r");
        let opened = rig.pillion.session(plan).input(numbers([1]).schema()).open().await;
        let mut session = opened.unwrap();
        let (mut shared, mut same_address, mut same_place) = (0, 0, 0);
        for _ in 0..20 {
            let batch = built(&session, 10_000);
            let address = batch.column(0).to_data().buffers()[0].as_ptr().addr();
            let ours = place_of(address).filter(|(file, _)| file.contains("memfd:pillion-session"));
            let answer = ask(&mut session, batch).await.unwrap();
            let text = strings(&answer.batch)[9_999].clone().unwrap();
            let words: Vec<_> = text.split(' ').collect();
            shared += usize::from(ours.is_some());
            same_address += usize::from(words[0].parse() == Ok(address));
            same_place += usize::from(ours.is_some_and(|(file, at)| file.contains(words[1]) && words[2].parse() == Ok(at)));
        }
        println!("{shared} shared, {same_address} at the same address, {same_place} at the same place");
        match (setup.mode, transport(), setup.door) {
            (Mode::Thread, _, Door::Embedded) => assert_eq!((shared, same_address), (0, 20)),
            (Mode::Process, Transport::Shm, Door::Embedded) => assert_eq!((shared, same_place), (20, 20)),
            // The arena comes with the first answers.
            (Mode::Process, Transport::Shm, _) => assert!(shared >= 15 && same_place == shared),
            (Mode::Thread, Transport::Shm, _) => assert!(shared >= 15, "what the sidecar decodes, it copies"),
            (_, Transport::Inline, _) => assert_eq!(shared, 0),
        }
        // A batch may be sent again, and cut: it is then copied like any other.
        let batch = built(&session, 1000);
        for batch in [batch.clone(), batch.clone(), batch.slice(100, 50), built(&session, 1000).slice(10, 7)] {
            assert_eq!(ask(&mut session, batch.clone()).await.unwrap().batch.num_rows(), batch.num_rows());
        }
        rig.end().await;
    });
}

/// Slots of batches whose worker dies are sent to the next one, and come back to their host.
#[test]
fn what_a_host_has_built_survives_its_worker() {
    both_doors(async |door| {
        let rig = Rig::with(door, |config| config.shm.max_bytes = 64 << 20).await;
        let (mut input, mut output) = rig.open("identity").await.split();
        let sending = tokio::spawn(async move {
            for at in 0..200 {
                let mut room = input.allocate(Allocation::room::<i64>(20_000));
                let mut part = room.part::<i64>(20_000).unwrap();
                part.iter_mut().zip(20_000 * at..).for_each(|(value, number)| *value = number);
                let column = Arc::new(Int64Array::new(part.freeze(), None)) as ArrayRef;
                input.send(RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap()).await.unwrap();
            }
            input.finish().await.unwrap();
        });
        let mut at = 0;
        while let Some(answer) = output.recv().await {
            assert_eq!(values(&answer.unwrap().batch), (20_000 * at..20_000 * (at + 1)).map(Some).collect::<Vec<_>>(), "batch {at}");
            at += 1;
            if at % 40 == 0 {
                for pid in worker_pids(&rig.pillion).await {
                    // It may have ended by itself.
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                }
            }
        }
        assert_eq!(at, 200);
        sending.await.unwrap();
        rig.end().await;
    });
}

#[test]
fn what_a_function_keeps_stays_as_it_was() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let requirements = ["numpy", "pandas", "pyarrow"].map(str::to_owned).to_vec();
        let environment = EnvironmentSpec { requirements, ..Default::default() };
        let plan = Plan::scalar(function_in("memory.py", "keep"), vec![0], "r");
        let options = pillion::SessionOptions { max_workers: Some(1), ..Default::default() };
        let opened = rig.pillion.session(plan).environment(environment).options(options).input(numbers([1]).schema()).open().await;
        let mut session = opened.unwrap();
        let mut sum = 0;
        // More than an arena holds, so that some of it must go another way.
        for at in 1..=120 {
            sum += at;
            let answer = ask(&mut session, numbers(at..at + 20_000)).await.unwrap();
            assert_eq!(values(&answer.batch)[0], Some(sum));
        }
        rig.end().await;
    });
}

#[test]
fn no_worker_can_resize_what_is_shared() {
    run(async {
        let rig = Rig::new(Door::Embedded).await;
        let plan = Plan::scalar(function_in("memory.py", "resize"), vec![0], "r");
        let mut session = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.unwrap();
        for _ in 0..2 {
            let outcome = strings(&ask(&mut session, numbers([1])).await.unwrap().batch)[0].clone().unwrap();
            assert!(outcome.contains("PermissionError") && !outcome.contains("resized"), "{outcome}");
        }
        rig.end().await;
    });
}

/// A result is copied before it is validated: whatever the worker writes meanwhile, it is a valid batch or an error.
#[test]
fn a_worker_that_rewrites_its_results_harms_nobody() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let plan = Plan::scalar(function_in("memory.py", "rewrite"), vec![0], "r");
        let mut session = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.unwrap();
        let (mut whole, mut damaged) = (0, 0);
        for _ in 0..30 {
            match ask(&mut session, numbers(0..2000)).await {
                Ok(output) => {
                    output.batch.column(0).to_data().validate_full().unwrap();
                    let texts = output.batch.column(0).as_string::<i32>();
                    whole += usize::from((0..texts.len()).all(|row| texts.value(row) == format!("text {row}")));
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::ProtocolViolation, "{error:?}");
                    damaged += 1;
                }
            }
        }
        println!("{whole} whole, {damaged} damaged");
        assert!(transport() == Transport::Shm || whole == 30);
        rig.end().await;
    });
}

#[test]
fn a_worker_that_breaks_the_rings_is_ended_and_the_session_goes_on() {
    run(async {
        let rig = Rig::new(Door::Embedded).await;
        for name in ["ring_garbage_on_13", "wild_reference_on_13", "stale_release_on_13"] {
            let plan = Plan::scalar(function_in("memory.py", name), vec![0], "r");
            let opened = rig.pillion.session(plan).options(attempts(2)).input(numbers([1]).schema()).open().await;
            let mut session = opened.unwrap();
            assert_eq!(values(&ask(&mut session, numbers([1])).await.unwrap().batch), [Some(1)]);
            let error = ask(&mut session, numbers([13])).await.unwrap_err();
            assert_eq!((error.code(), error.seq()), (Code::ProtocolViolation, Some(2)), "`{name}`: {error:?}");
            assert_eq!(values(&ask(&mut session, numbers([2])).await.unwrap().batch), [Some(2)], "`{name}`");
        }
        rig.end().await;
    });
}

/// Of two sessions of one worker, the second uses slots again that the first gave back; results of the first that nobody has read, or that are used where they lie, must stay.
#[test]
fn results_stay_as_they_are_when_their_session_is_over() {
    for trusted in [false, true] {
        both_doors(async |door| {
            let rig = Rig::with(door, |config| {
                config.pool.max = 1;
                config.environments.insert("default".into(), EnvironmentConfig { trusted, ..Default::default() });
            })
            .await;
            let batches = |from: i64| (0..20).map(move |at| numbers(from + 100 * at..from + 100 * (at + 1)));
            for cancelled in [false, true] {
                let mut first = rig.open("identity").await;
                for batch in batches(0) {
                    first.send(batch).await.unwrap();
                }
                first.finish().await.unwrap();
                let kept = first.recv().await.unwrap();
                let between = exchange(rig.open("identity").await, batches(1_000_000)).await;
                let mut found = vec![kept.unwrap().batch];
                while let Some(output) = if cancelled { None } else { first.recv().await } {
                    found.push(output.unwrap().batch);
                }
                drop(first);
                let again = exchange(rig.open("identity").await, batches(2_000_000)).await;
                assert!(between.into_iter().chain(again).all(|answer| answer.is_ok()));
                assert_eq!(found.len(), if cancelled { 1 } else { 20 });
                let expected: Vec<_> = batches(0).take(found.len()).flat_map(|batch| values(&batch)).collect();
                assert_eq!(found.iter().flat_map(values).collect::<Vec<_>>(), expected, "trusted: {trusted}, cancelled: {cancelled}");
            }
            rig.end().await;
        });
    }
}

#[test]
fn nothing_stays_when_workers_are_killed_in_the_middle() {
    if !alone("nothing_stays_when_workers_are_killed_in_the_middle") {
        return;
    }
    both_doors(async |door| {
        assert_eq!(ours(), (0, 0), "before");
        let rig = Rig::new(door).await;
        let (mut input, mut output) = rig.open("identity").await.split();
        let sending = tokio::spawn(async move {
            for at in 0..200 {
                input.send(numbers(at..at + 5000)).await.unwrap();
            }
            input.finish().await.unwrap();
        });
        let (mut answers, mut shared) = (0, false);
        while let Some(answer) = output.recv().await {
            answer.unwrap();
            answers += 1;
            // Not when all are done: what the last workers had may be gone by then.
            shared |= ours().0 > 0;
            if answers % 40 == 0 {
                for pid in worker_pids(&rig.pillion).await {
                    // It may have ended by itself.
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                }
            }
        }
        assert_eq!(answers, 200);
        sending.await.unwrap();
        assert_eq!(transport() == Transport::Shm, shared, "nothing was shared");
        drop(output);
        rig.end().await;
        // Whoever waits for the reaping of a worker drops what it was lent.
        for _ in 0..100 {
            if ours() == (0, 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ours(), (0, 0), "after");
    });
}
