use super::*;
use proptest::prelude::*;
use std::{cell::Cell, cmp::Reverse, collections::BinaryHeap, rc::Rc};

const SLICE: Duration = Duration::from_millis(10);

/// A driver in the line; gone once its cell says so.
#[derive(Clone, Debug, Default)]
struct Driver(Rc<Cell<bool>>);

impl Waiter for Driver {
    fn is_gone(&self) -> bool {
        self.0.get()
    }
}

/// A session of a simulation: it always has something to do.
#[derive(Clone, Debug)]
struct Load {
    weight: u32,
    drivers: usize,
    /// How long its batches take, one after the other, in milliseconds.
    batches: Vec<u64>,
}

impl Load {
    fn longest(&self) -> Duration {
        Duration::from_millis(*self.batches.iter().max().unwrap())
    }
}

/// What sessions got out of `workers` workers in `time`: worker time and the longest wait for a lease, by session.
fn simulate(loads: &[Load], workers: usize, time: Duration) -> Vec<(Duration, Duration)> {
    let start = Instant::now();
    let mut line = Line::<(Driver, Instant)>::default();
    let mut got = vec![(Duration::ZERO, Duration::ZERO); loads.len()];
    let mut done = vec![0; loads.len()];
    for (id, load) in (1..).zip(loads) {
        line.open(id, load.weight);
        (0..load.drivers).for_each(|_| line.join(id, (Driver::default(), start), start));
    }
    // Batches that end: when, the session, its lease and when that began.
    let mut running: BinaryHeap<Reverse<(Instant, u64, u64)>> = BinaryHeap::new();
    let mut leases = HashMap::new();
    let mut free = workers;
    let (mut now, mut serial) = (start, 0);
    loop {
        while free > 0 {
            let Some((id, (_, since))) = line.next(now) else { break };
            let at = id as usize - 1;
            got[at].1 = got[at].1.max(now - since);
            free -= 1;
            serial += 1;
            leases.insert(serial, (line.begin(id, now), now));
            running.push(Reverse((now + batch(&loads[at], &mut done[at]), serial, id)));
        }
        let Some(Reverse((at, lease, id))) = running.pop() else { unreachable!("somebody always works") };
        now = at;
        let session = id as usize - 1;
        let (charge, begun) = leases[&lease];
        if now - begun >= SLICE && line.is_due(id, now) {
            got[session].0 += now - begun;
            leases.remove(&lease);
            line.end(charge, now);
            free += 1;
            line.join(id, (Driver::default(), now), now);
        } else {
            running.push(Reverse((now + batch(&loads[session], &mut done[session]), lease, id)));
        }
        if now - start >= time {
            for (lease, (_, begun)) in leases {
                let Reverse((_, _, id)) =
                    running.iter().find(|Reverse((_, other, _))| *other == lease).copied().unwrap_or(Reverse((now, lease, id)));
                got[id as usize - 1].0 += now - begun;
            }
            return got;
        }
    }
}

impl Waiter for (Driver, Instant) {
    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }
}

fn batch(load: &Load, done: &mut usize) -> Duration {
    *done += 1;
    Duration::from_millis(load.batches[*done % load.batches.len()])
}

fn load(weight: u32, drivers: usize, batches: &[u64]) -> Load {
    Load { weight, drivers, batches: batches.to_vec() }
}

fn ratio(got: &[(Duration, Duration)]) -> f64 {
    got[0].0.as_secs_f64() / got[1].0.as_secs_f64()
}

#[test]
fn drivers_do_not_count() {
    let got = simulate(&[load(1, 8, &[3]), load(1, 1, &[3])], 1, Duration::from_secs(60));
    assert!((0.98..1.02).contains(&ratio(&got)), "{got:?}");
}

#[test]
fn long_batches_do_not_count() {
    let got = simulate(&[load(1, 1, &[700]), load(1, 1, &[1])], 1, Duration::from_secs(120));
    assert!((0.97..1.03).contains(&ratio(&got)), "{got:?}");
    // The one batch that runs; what it took is paid back before the next one.
    assert!(got[1].1 <= Duration::from_millis(700), "{got:?}");
}

#[test]
fn weights_divide_worker_time() {
    let got = simulate(&[load(3, 2, &[7, 30]), load(1, 2, &[2])], 2, Duration::from_secs(120));
    assert!((2.9..3.1).contains(&ratio(&got)), "{got:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any sessions that all want all workers: what they got for their weight differs by no more than what all workers can do for one of them at once.
    #[test]
    fn shares_follow_weights(
        loads in prop::collection::vec((1..6u32, prop::collection::vec(1..60u64, 1..4)), 2..5),
        extra in 0..4usize,
        workers in 1..4usize,
    ) {
        let loads: Vec<_> = loads.into_iter().map(|(weight, batches)| Load { weight, drivers: workers + extra, batches }).collect();
        let got = simulate(&loads, workers, Duration::from_secs(30));
        for (a, x) in loads.iter().zip(&got) {
            for (b, y) in loads.iter().zip(&got) {
                let normal = |load: &Load, used: Duration| used.as_secs_f64() / f64::from(load.weight);
                let bound = normal(a, (SLICE + a.longest()) * workers as u32) + normal(b, (SLICE + b.longest()) * workers as u32);
                let apart = normal(a, x.0) - normal(b, y.0);
                prop_assert!(apart.abs() <= bound, "{apart} is over {bound}: {loads:?} got {got:?}");
            }
        }
    }

    /// A session that comes now and then waits for the end of one slice at most, whoever else is there and whatever they did before.
    #[test]
    fn a_light_session_waits_for_one_slice(noisy in prop::collection::vec((1..40u64, 1..9usize), 1..4), pause in 1..300u64) {
        let start = Instant::now();
        let mut line = Line::<Driver>::default();
        for (id, &(_, drivers)) in (1..).zip(&noisy) {
            line.open(id, 1);
            (0..drivers).for_each(|_| line.join(id, Driver::default(), start));
        }
        let light = 100;
        line.open(light, 1);
        let mut now = start;
        // Not at the start, where all come anew.
        let mut comes = start + Duration::from_secs(1) + Duration::from_millis(pause);
        let mut waits = None;
        for _ in 0..1000 {
            let Some((id, _)) = line.next(now) else { unreachable!("the noisy ones always wait") };
            let charge = line.begin(id, now);
            if id == light {
                prop_assert!(waits.take().is_some());
                now += Duration::from_millis(1);
                line.end(charge, now);
                comes = now + Duration::from_millis(pause);
                continue;
            }
            let began = now;
            let (length, _) = noisy[id as usize - 1];
            loop {
                now += Duration::from_millis(length);
                if waits.is_none() && now >= comes {
                    line.join(light, Driver::default(), comes);
                    waits = Some(comes);
                }
                if now - began >= SLICE && line.is_due(id, now) {
                    break;
                }
                prop_assert!(waits.is_none_or(|since| now - since <= SLICE + Duration::from_millis(length)), "it was passed over");
            }
            line.end(charge, now);
            line.join(id, Driver::default(), now);
        }
    }
}

/// The use of a worker by one account while another waits.
fn use_for(line: &mut Line<Driver>, account: u64, now: &mut Instant, time: Duration) {
    let charge = line.begin(account, *now);
    *now += time;
    line.end(charge, *now);
}

#[test]
fn what_nobody_else_wanted_is_free() {
    let mut now = Instant::now();
    let mut line = Line::<Driver>::default();
    line.open(1, 1);
    line.open(2, 1);
    use_for(&mut line, 1, &mut now, Duration::from_secs(3600));
    line.join(1, Driver::default(), now);
    line.join(2, Driver::default(), now);
    assert_eq!(line.next(now).unwrap().0, 1, "it came first, and owes nothing for the hour before");
}

#[test]
fn time_not_used_is_no_claim() {
    let mut now = Instant::now();
    let mut line = Line::<Driver>::default();
    (1..=3).for_each(|id| line.open(id, 1));
    // Two compete for a minute while the third is away.
    line.join(1, Driver::default(), now);
    line.join(2, Driver::default(), now);
    for _ in 0..600 {
        let (id, _) = line.next(now).unwrap();
        use_for(&mut line, id, &mut now, Duration::from_millis(100));
        line.join(id, Driver::default(), now);
    }
    line.join(3, Driver::default(), now);
    let turns: Vec<_> = (0..9)
        .map(|_| {
            let (id, _) = line.next(now).unwrap();
            use_for(&mut line, id, &mut now, Duration::from_millis(100));
            line.join(id, Driver::default(), now);
            id
        })
        .collect();
    assert!((1..=3).all(|id| (2..=4).contains(&turns.iter().filter(|&&turn| turn == id).count())), "{turns:?}");
}

#[test]
fn loading_is_one_among_the_sessions() {
    let mut now = Instant::now();
    let mut line = Line::<Driver>::default();
    line.open(1, 10);
    line.join(1, Driver::default(), now);
    (0..1000).for_each(|_| line.join(LOADING, Driver::default(), now));
    let mut turns = [0; 2];
    for _ in 0..100 {
        let (id, _) = line.next(now).unwrap();
        turns[id as usize] += 1;
        use_for(&mut line, id, &mut now, Duration::from_millis(20));
        line.join(id, Driver::default(), now);
    }
    assert_eq!(turns, [50, 50], "a thousand opens share their turns, and have the weight of the heaviest session");
}

#[test]
fn who_gave_up_is_passed_over() {
    let now = Instant::now();
    let mut line = Line::<Driver>::default();
    line.open(1, 1);
    let gone = Driver::default();
    line.join(1, gone.clone(), now);
    gone.0.set(true);
    assert!(!line.is_due(2, now));
    assert_eq!(line.len(now), 0);
    line.join(1, gone, now);
    line.join(1, Driver::default(), now);
    assert!(line.next(now).is_some());
    assert!(line.next(now).is_none());
}
