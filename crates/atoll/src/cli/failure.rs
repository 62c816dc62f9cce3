//! How a command fails: what happened, why, and what to do about it.

use std::{error::Error, fmt, io};

/// Longest line of an error, in characters: some quote a line of a file, and that may be no text at all.
const LINE_CHARS_MAX: usize = 400;

/// A failure with its cure. Put it anywhere in an [`anyhow::Error`]'s chain; [`render`] finds it there.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    cure: String,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// With no further cause.
    pub(crate) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what: what.into(), cure: cure.into(), source: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// An error that says what happened and what to do.
pub(crate) fn fail(what: impl Into<String>, cure: impl Into<String>) -> anyhow::Error {
    Failure::new(what, cure).into()
}

/// Puts what was being done, and what to do about its failure, around an error.
pub(crate) trait OrFail<T> {
    /// `what` and `cure` are only made when there is an error.
    fn or_fail<W: Into<String>, C: Into<String>>(
        self,
        what: impl FnOnce() -> W,
        cure: impl FnOnce() -> C,
    ) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail<W: Into<String>, C: Into<String>>(
        self,
        what: impl FnOnce() -> W,
        cure: impl FnOnce() -> C,
    ) -> anyhow::Result<T> {
        self.map_err(|source| Failure { what: what().into(), cure: cure().into(), source: Some(source.into()) }.into())
    }
}

/// Writes the error to standard error. When even that is closed, nobody wants to know.
pub(crate) fn report(error: &anyhow::Error) {
    use io::Write as _;
    let _ = io::stderr().write_all(render(error).as_bytes());
}

/// The text for a person: what happened, each cause on a line of its own, then the cures.
pub(crate) fn render(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut cures: Vec<&str> = Vec::new();
    let mut last = String::new();
    for (depth, cause) in error.chain().enumerate() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            cures.push(&failure.cure);
        }
        let line = cause.to_string();
        if line == last {
            continue;
        }
        let label = if depth == 0 { "error: " } else { "  because: " };
        text.push_str(&indent(label, &line));
        last = line;
    }
    for cure in cures {
        text.push_str(&indent("  what to do: ", cure));
    }
    text
}

/// Further lines of a message stand below its first one, not at the margin.
fn indent(label: &str, message: &str) -> String {
    let mut text = String::new();
    for (number, line) in message.lines().enumerate() {
        if number == 0 {
            text.push_str(label);
        } else {
            text.push_str("    ");
        }
        match line.char_indices().nth(LINE_CHARS_MAX) {
            Some((end, _)) => text.extend([&line[..end], "…"]),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Whether the reader of our output went away (`atoll ps | head -1`): not a failure of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let denied: Result<(), _> = Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = denied
            .or_fail(|| "cannot read wallet.key", || "run it as root: `sudo atoll wallet`")
            .context("cannot show the wallet")
            .expect_err("an error");
        assert_eq!(
            render(&error),
            "error: cannot show the wallet\n  because: cannot read wallet.key\n  because: permission denied\n  \
             what to do: run it as root: `sudo atoll wallet`\n"
        );
    }

    #[test]
    fn long_messages_are_indented_and_repetition_is_dropped() {
        let error = fail("two\nlines", "wait").context("two\nlines");
        assert_eq!(render(&error), "error: two\n    lines\n  what to do: wait\n");
    }

    #[test]
    fn a_line_of_which_nobody_sees_the_end_is_cut() {
        let error = fail("é".repeat(LINE_CHARS_MAX + 1), "x".repeat(LINE_CHARS_MAX));
        let expected =
            format!("error: {}…\n  what to do: {}\n", "é".repeat(LINE_CHARS_MAX), "x".repeat(LINE_CHARS_MAX));
        assert_eq!(render(&error), expected);
    }

    #[test]
    fn a_broken_pipe_is_found_at_any_depth() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot print");
        assert!(is_broken_pipe(&broken));
        assert!(!is_broken_pipe(&fail("x", "y")));
    }
}
