//! The stacks of one thread out of those of the whole process, which is what `faulthandler` writes: other workers run there too, and threads whose functions were
//! abandoned.

/// The part about thread `number` of a text of `faulthandler`; empty if it has none, since the thread runs no Python.
pub fn of_thread(text: &str, number: u64) -> String {
    let of_this = format!("hread 0x{number:016x} ");
    let heads_a_thread = |line: &str| line.starts_with("Thread 0x") || line.starts_with("Current thread 0x");
    let lines = text.lines().skip_while(|line| !(heads_a_thread(line) && line.contains(&of_this)));
    let mut found = String::new();
    for (at, line) in lines.enumerate() {
        if at > 0 && (heads_a_thread(line) || line.is_empty()) {
            break;
        }
        found.push_str(line);
        found.push('\n');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::of_thread;

    fn text() -> String {
        [
            "Thread 0x00007f0000000001 (most recent call first):",
            "  File \"a.py\", line 1 in first",
            "",
            "Current thread 0x00007f0000000002 [name] (most recent call first):",
            "  File \"b.py\", line 2 in inner",
            "  File \"b.py\", line 9 in second",
            "",
            "Thread 0x00007f0000000003 (most recent call first):",
            "  <no Python frame>",
        ]
        .join("\n")
    }

    #[test]
    fn a_thread_is_found_among_others() {
        let second = "Current thread 0x00007f0000000002 [name] (most recent call first):\n  File \"b.py\", line 2 in inner\n  File \"b.py\", line 9 in second\n";
        assert_eq!(of_thread(&text(), 0x7f00_0000_0002), second);
        assert_eq!(of_thread(&text(), 0x7f00_0000_0003), "Thread 0x00007f0000000003 (most recent call first):\n  <no Python frame>\n");
    }

    #[test]
    fn a_thread_without_python_has_none() {
        assert_eq!(of_thread(&text(), 0x7f00_0000_0004), "");
        assert_eq!(of_thread("", 1), "");
    }
}
