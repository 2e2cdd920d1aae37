use super::*;
use std::os::fd::AsFd;
use tracing_subscriber::fmt::MakeWriter;

/// Events as JSON lines.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<u8>>>);

impl io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Events {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Events {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::fmt().json().with_writer(self.clone()).finish())
    }

    fn fields(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let event = |line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["target"], "pillion::worker::output");
            event["fields"].clone()
        };
        text.lines().map(event).collect()
    }

    fn messages(&self) -> Vec<String> {
        self.fields().iter().map(|fields| fields["message"].as_str().unwrap().to_owned()).collect()
    }
}

/// The events of one stream that holds `bytes`.
fn events_of(bytes: &[u8], limits: OutputLimits) -> Events {
    let events = Events::default();
    let guard = events.capture();
    let mut lines = Lines::new("w-1".into(), 7, "stdout", limits);
    let now = Instant::now();
    // In odd pieces, so that lines are cut by reads.
    bytes.chunks(7).for_each(|piece| lines.push(piece, now));
    lines.finish(now);
    drop(guard);
    events
}

#[test]
fn lines_are_events_with_their_origin() {
    let events = events_of(b"one\ntwo\r\n\nthree", OutputLimits::default());
    assert_eq!(events.messages(), ["one", "two", "", "three"]);
    assert_eq!(events.fields()[0], serde_json::json!({"message": "one", "worker": "w-1", "pid": 7, "stream": "stdout"}));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced() {
    assert_eq!(events_of(b"caf\xe9 \xff\n", OutputLimits::default()).messages(), ["caf\u{fffd} \u{fffd}"]);
}

#[test]
fn a_long_line_is_cut_and_the_next_is_whole() {
    let limits = OutputLimits { line_bytes: 10, ..OutputLimits::default() };
    let events = events_of(b"0123456789abcdef\nnext\n", limits);
    assert_eq!(events.messages(), ["0123456789", "next"]);
    assert_eq!((&events.fields()[0]["cut"], &events.fields()[1]["cut"]), (&6.into(), &serde_json::Value::Null));
}

#[test]
fn what_is_beyond_the_rate_is_dropped_and_counted() {
    let limits = OutputLimits { lines_per_second: 3, ..OutputLimits::default() };
    let events = events_of(b"1\n2\n3\n4\n5\n", limits);
    assert_eq!(events.messages(), ["1", "2", "3", "output beyond the rate was dropped"]);
    assert_eq!((&events.fields()[3]["dropped_lines"], &events.fields()[3]["dropped_bytes"]), (&2.into(), &2.into()));
}

#[test]
fn the_rate_recovers_with_time() {
    let limits = OutputLimits { lines_per_second: 10, bytes_per_second: 100, ..OutputLimits::default() };
    let start = Instant::now();
    let mut budget = Budget::new(&limits, start);
    assert!(budget.take(&limits, 100, start));
    assert!(!budget.take(&limits, 1, start), "the bytes are spent");
    assert!(budget.take(&limits, 10, start + Duration::from_millis(101)));
    assert!(budget.take(&limits, 1000, start + Duration::from_secs(60)), "a line larger than a second's supply passes after a quiet time");
    assert!(!budget.take(&limits, 100, start + Duration::from_secs(60)));
}

#[tokio::test]
async fn both_streams_are_read_to_their_end_and_no_further() {
    let events = Events::default();
    let _guard = events.capture();
    let (pipes, writers) = OutputPipes::new().unwrap();
    let output = pipes.capture("w-1", 7, &OutputLimits::default());
    rustix::io::write(&writers[0], b"out").unwrap();
    rustix::io::write(&writers[1], b"err\n").unwrap();
    let tail = output.tail().clone();
    // A stray descendant still holds the writing ends.
    output.finish().await;
    let mut messages = events.messages();
    messages.sort();
    assert_eq!(messages, ["err", "out"]);
    assert_eq!(tail.text(), "err");
    let error = rustix::net::send(writers[0].as_fd(), b"x", rustix::net::SendFlags::NOSIGNAL);
    assert!(error.is_err(), "the reading ends are closed");
}

#[test]
fn the_tail_keeps_the_end_from_a_line_on() {
    let tail = Tail::default();
    assert_eq!(tail.text(), "");
    for line in 0..1000 {
        tail.push(format!("line {line}\n").as_bytes());
    }
    let text = tail.text();
    assert!(text.len() <= TAIL_BYTES && text.starts_with("line ") && text.ends_with("\nline 999"), "{text}");
    tail.push(&[b'x'; 10_000]);
    assert_eq!(tail.text(), "x".repeat(TAIL_BYTES));
}
