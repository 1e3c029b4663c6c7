//! Progress bars with rate and time left; plain lines now and then where there is no terminal.

use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use avsweep_proto::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The one place that draws on stderr, so that log lines and bars do not overwrite each other.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)))
}

/// Prints a line on stderr, above the bars.
pub(super) fn print_line(line: &str) {
    bars().suspend(|| eprintln!("{line}"));
}

/// A writer for log lines that go above the bars.
pub(crate) fn stderr_beside_progress() -> impl Write {
    struct Beside;
    impl Write for Beside {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            bars().suspend(|| io::stderr().write(buffer))
        }
        fn flush(&mut self) -> io::Result<()> {
            io::stderr().flush()
        }
    }
    Beside
}

/// `3 min 05 s`
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A bar that counts one thing, with the time left; a spinner where nobody knows how many there will be. Nothing is drawn
/// where stderr is no terminal.
pub(crate) fn counting_bar(label: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{prefix:<12} {wide_bar} {pos}/{len} {eta} left",
        None => "{prefix:<12} {spinner} {pos} {elapsed}",
    };
    let bar = bars().add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.set_prefix(label);
    bar
}

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The bars of one running sweep.
pub(crate) struct SweepProgressBars {
    points: ProgressBar,
    finalists: ProgressBar,
    /// Who works on it, where that is not this process.
    crew: Option<ProgressBar>,
    started: Instant,
    done_at_start: Option<u64>,
    last_line: Option<Instant>,
}

impl SweepProgressBars {
    /// Bars for a sweep that starts or continues now, in this process.
    pub(crate) fn new() -> Self {
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─")
        };
        let points = bars().add(ProgressBar::new(0));
        points.set_style(style("{prefix:<10} {wide_bar} {pos}/{len} {msg}"));
        points.set_prefix("points");
        let finalists = bars().add(ProgressBar::new(0));
        finalists.set_style(style("{prefix:<10} {wide_bar} {pos}/{len} {msg}"));
        finalists.set_prefix("finalists");
        Self { points, finalists, crew: None, started: Instant::now(), done_at_start: None, last_line: None }
    }

    /// The same with a line on workers, failures and the judge's queue, for a sweep that others work on.
    pub(crate) fn with_crew() -> Self {
        let shown = Self::new();
        let crew = bars().add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{prefix:<10} {msg}") {
            crew.set_style(style);
        }
        crew.set_prefix("crew");
        Self { crew: Some(crew), ..shown }
    }

    /// Shows the progress.
    pub(crate) fn update(&mut self, progress: &v1::SweepProgress) {
        let done = progress.points_done + progress.points_raced;
        // A strategy that stops by itself may have fewer points than its budget, so no time is foretold.
        let is_known = progress.points_planned.is_some();
        let planned = progress.points_planned.or(progress.points_budget).unwrap_or(done).max(done);
        let (rate, left) = self.rate(progress, planned - done);
        let left = match (left.filter(|_| is_known), progress.points_budget) {
            (Some(left), _) => format!("{} left", human_duration(left)),
            (None, Some(budget)) => format!("at most {budget} points"),
            (None, None) => "… left".to_owned(),
        };
        self.points.set_length(planned);
        self.points.set_position(done);
        self.points.set_message(format!("{rate:.1} points/s, {left}"));

        let (mut total, mut closed, mut parked, mut unjudged) = (0, 0, 0, 0);
        for rung in &progress.rungs {
            parked += rung.parked;
            if rung.rung() == v1::Rung::Judgement {
                unjudged += rung.ready + rung.leased;
            }
            if rung.rung() != v1::Rung::Likelihood {
                total += rung.ready + rung.leased + rung.done + rung.parked + rung.raced;
                closed += rung.done + rung.parked + rung.raced;
            }
        }
        self.finalists.set_length(total);
        self.finalists.set_position(closed);
        self.finalists.set_message(match parked {
            0 => "generated and judged".to_owned(),
            parked => format!("generated and judged, {parked} jobs failed"),
        });
        let crew = self.crew.as_ref().map(|crew| {
            let state = match progress.state() {
                v1::SweepState::Paused => "paused, ",
                _ => "",
            };
            let text = format!(
                "{state}workers {}, failures {}, judge queue {unjudged}",
                progress.workers, progress.failures
            );
            crew.set_message(text.clone());
            text
        });

        let due = planned + total > 0 && self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if due && !io::stderr().is_terminal() {
            self.last_line = Some(Instant::now());
            let crew = crew.map_or_else(String::new, |crew| format!("; {crew}"));
            let of = if is_known { format!("/{planned}") } else { String::new() };
            eprintln!(
                "{done}{of} points, {rate:.1} points/s, {left}; {closed}/{total} generation and judge jobs{crew}"
            );
        }
    }

    /// Points per second and the time left at that: as the coordinator says, else since this began.
    fn rate(&mut self, progress: &v1::SweepProgress, missing: u64) -> (f64, Option<Duration>) {
        if let Some(rate) = progress.points_per_second {
            return (rate, progress.seconds_left.map(Duration::from_secs));
        }
        let done = progress.points_done + progress.points_raced;
        let at_start = *self.done_at_start.get_or_insert(done);
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = if elapsed > 0.0 { (done - at_start.min(done)) as f64 / elapsed } else { 0.0 };
        (rate, (rate > 0.0).then(|| Duration::from_secs_f64(missing as f64 / rate)))
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        self.points.finish_and_clear();
        self.finalists.finish_and_clear();
        if let Some(crew) = &self.crew {
            crew.finish_and_clear();
        }
    }
}
