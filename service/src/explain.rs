//! What a program says last when it cannot go on, and spans of time in words.

use std::{error::Error, time::Duration};

/// An error and its causes, a line each, for a person at a terminal. Causes that the line before says already are left out.
pub fn explain(program: &str, error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut text = format!("{program}: {}", said.trim_end());
    let mut next = error.source();
    while let Some(cause) = next {
        let line = cause.to_string();
        if !said.ends_with(&line) {
            text.push_str("\n  because: ");
            text.push_str(line.trim_end());
        }
        said = line;
        next = cause.source();
    }
    text
}

/// The same in one line, for a log or an answer.
pub fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let line = cause.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(line.trim_end());
        }
        next = cause.source();
    }
    text
}

/// A span of time for a person: `90 minutes`, `26 hours`, `3 days`. Two figures are enough.
pub fn spelt(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} seconds"),
        seconds @ ..7_200 => format!("{} minutes", seconds / 60),
        seconds @ ..172_800 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Step {
        text: &'static str,
        source: Option<Box<Step>>,
    }

    fn chain(texts: &[&'static str]) -> Step {
        let (text, rest) = texts.split_first().unwrap();
        Step { text, source: (!rest.is_empty()).then(|| Box::new(chain(rest))) }
    }

    #[test]
    fn causes_are_told_once() {
        let text = explain("program", &chain(&["opening failed", "driver: no such host", "no such host", "code 2\n"]));
        assert_eq!(text, "program: opening failed\n  because: driver: no such host\n  because: code 2");
        assert_eq!(
            in_one_line(&chain(&["opening failed", "driver: no such host", "no such host", "code 2\n"])),
            "opening failed: driver: no such host: code 2"
        );
    }
}
