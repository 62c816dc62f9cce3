//! What a person sees while something takes long: a spinner on a terminal, a line elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows `what` until the bar is finished.
pub(super) fn spinner(what: &str) -> Stage {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    Stage { bar, what: what.to_owned(), started: Instant::now() }
}

/// A stage under way.
pub(super) struct Stage {
    bar: ProgressBar,
    what: String,
    started: Instant,
}

impl Stage {
    /// Takes the spinner away and leaves a line that says how long it took.
    pub(super) fn done(self) {
        let line = format!("✓ {} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
        self.bar.finish_and_clear();
        eprintln!("{line}");
    }

    /// Takes the spinner away: an error follows.
    pub(super) fn failed(self) {
        self.bar.finish_and_clear();
    }
}
