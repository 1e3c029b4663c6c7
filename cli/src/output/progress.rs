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

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The bars of one running sweep.
pub(crate) struct SweepProgressBars {
    points: ProgressBar,
    finalists: ProgressBar,
    started: Instant,
    done_at_start: Option<u64>,
    last_line: Option<Instant>,
}

impl SweepProgressBars {
    /// Bars for a sweep that starts or continues now.
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
        Self { points, finalists, started: Instant::now(), done_at_start: None, last_line: None }
    }

    /// Shows the progress.
    pub(crate) fn update(&mut self, progress: &v1::SweepProgress) {
        let done = progress.points_done;
        let planned = progress.points_planned.unwrap_or(done).max(done);
        let at_start = *self.done_at_start.get_or_insert(done);
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = if elapsed > 0.0 { (done - at_start.min(done)) as f64 / elapsed } else { 0.0 };
        let left = if rate > 0.0 {
            human_duration(Duration::from_secs_f64((planned - done) as f64 / rate))
        } else {
            "…".to_owned()
        };
        self.points.set_length(planned);
        self.points.set_position(done);
        self.points.set_message(format!("{rate:.1} points/s, {left} left"));

        let (mut total, mut closed, mut parked) = (0, 0, 0);
        for rung in progress.rungs.iter() {
            parked += rung.parked;
            if rung.rung() != v1::Rung::Likelihood {
                total += rung.ready + rung.leased + rung.done + rung.parked;
                closed += rung.done + rung.parked;
            }
        }
        self.finalists.set_length(total);
        self.finalists.set_position(closed);
        self.finalists.set_message(match parked {
            0 => "generated and judged".to_owned(),
            parked => format!("generated and judged, {parked} jobs failed"),
        });

        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if due && !io::stderr().is_terminal() {
            self.last_line = Some(Instant::now());
            eprintln!(
                "{done}/{planned} points, {rate:.1} points/s, {left} left; {closed}/{total} generation and judge jobs"
            );
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        self.points.finish_and_clear();
        self.finalists.finish_and_clear();
    }
}
