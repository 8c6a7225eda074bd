//! What a person sees while something takes long: the stage, how far it is, how long it has taken.

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Lines on standard error: a live one on a terminal, one line a stage elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    live: bool,
    stage: String,
    stage_started: Instant,
    last_line: Instant,
    quiet: bool,
}

/// How often a stage that goes on writes a line where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// The same where only the reason of a wait is repeated.
const PLAIN_WAIT_INTERVAL: Duration = Duration::from_secs(30);

impl Progress {
    /// Begins; `quiet` prints nothing (JSON output).
    pub(crate) fn new(quiet: bool) -> Self {
        let live = std::io::stderr().is_terminal() && !quiet;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if !live {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let now = Instant::now();
        Self { bar, live, stage: String::new(), stage_started: now, last_line: now, quiet }
    }

    /// Says what is done now, with bytes where they are known.
    pub(crate) fn stage(&mut self, stage: &str, done: Option<u64>, total: Option<u64>) {
        let is_new = stage != self.stage;
        if is_new {
            self.finish_stage();
            stage.clone_into(&mut self.stage);
            self.stage_started = Instant::now();
        }
        if self.live {
            self.draw(done, total, is_new);
        } else if !self.quiet && (is_new || self.last_line.elapsed() >= PLAIN_INTERVAL) {
            self.last_line = Instant::now();
            let share = match (done, total) {
                (Some(done), Some(total)) if done > 0 => format!(" {} of {}", HumanBytes(done), HumanBytes(total)),
                _ => String::new(),
            };
            let took = self.stage_started.elapsed().as_secs();
            let took = if took > 0 { format!(" ({took} s)") } else { String::new() };
            eprintln!("  … {stage}{share}{took}");
        }
    }

    /// Says what is waited for now, in place of what was said before: no end of a stage, only another reason.
    pub(crate) fn waits_for(&mut self, what: &str) {
        if self.live {
            let is_new = self.stage.is_empty();
            what.clone_into(&mut self.stage);
            self.draw(None, None, is_new);
            self.bar.set_message(self.stage.clone());
        } else if !self.quiet && (self.stage != what || self.last_line.elapsed() >= PLAIN_WAIT_INTERVAL) {
            what.clone_into(&mut self.stage);
            self.last_line = Instant::now();
            eprintln!("  … {what}");
        }
    }

    /// Forgets what was waited for.
    pub(crate) fn waited(&mut self) {
        self.stage.clear();
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    fn draw(&mut self, done: Option<u64>, total: Option<u64>, is_new: bool) {
        // The templates are constants of ours; one that does not parse falls back to the default look.
        let style =
            |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        if is_new {
            self.bar.reset();
            self.bar.set_style(match total {
                Some(_) => style("  {spinner} {msg} {wide_bar} {bytes} of {total_bytes} {elapsed}"),
                None => style("  {spinner} {msg} {elapsed}"),
            });
            self.bar.set_message(self.stage.clone());
            self.bar.enable_steady_tick(Duration::from_millis(120));
        }
        if let (Some(done), Some(total)) = (done, total) {
            self.bar.set_length(total);
            self.bar.set_position(done);
        }
    }

    fn finish_stage(&mut self) {
        if self.stage.is_empty() || self.quiet {
            return;
        }
        let took = self.stage_started.elapsed();
        let took = if took < Duration::from_secs(1) { String::new() } else { format!(" ({})", HumanDuration(took)) };
        if self.live || took.len() > 1 {
            self.line(&format!("  ✓ {}{took}", self.stage));
        }
        self.stage.clear();
    }

    /// Ends the stage that runs.
    pub(crate) fn done(&mut self) {
        self.finish_stage();
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// Writes a line that stays.
    pub(crate) fn line(&self, line: &str) {
        if self.quiet {
            return;
        }
        if self.live { self.bar.suspend(|| eprintln!("{line}")) } else { eprintln!("{line}") }
    }
}
