//! `avsweep sweep watch`: a sweep's progress until it is over, whatever becomes of the coordinator meanwhile.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use avsweep_proto::v1;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::standstill::{self, Standstill};
use super::sweeps::summarise;
use crate::arguments::Format;
use crate::connection::{Connection, Place, explain, is_away};
use crate::embedded::Access;
use crate::interruption;
use crate::output::{self, SweepProgressBars};

/// Waits between tries to reach a coordinator that is away: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// `avsweep sweep watch`
pub(super) async fn run(place: &Place, sweep: &str, format: Format) -> Result<Outcome> {
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, _) = connection.sweep(sweep).await?;
    follow(&connection, progress.sweep, place, format).await
}

/// Shows progress until the sweep is done or cancelled, or the user has seen enough.
pub(super) async fn follow(
    connection: &Connection,
    sweep: i64,
    place: &Place,
    format: Format,
) -> Result<Outcome> {
    let interrupted = interruption::listen().token();
    let bars = (format == Format::Table).then(SweepProgressBars::with_crew);
    let mut show = Show { bars, place, standstill: Standstill::default() };
    let last = last_progress(connection, sweep, &mut show, &interrupted).await;
    show.finish();
    let Some(last) = last? else {
        output::note(format!(
            "the sweep goes on; 'avsweep sweep watch {sweep}{}' shows it again",
            place.flag()
        ));
        return Ok(Outcome::Interrupted);
    };
    let parked: u64 = last.rungs.iter().map(|rung| rung.parked).sum();
    if last.state() == v1::SweepState::Cancelled {
        bail!("sweep '{}' was cancelled", last.name);
    }
    if format == Format::Table {
        let done =
            format!("sweep '{}' is done: {} points, {} results", last.name, last.points_done, last.results);
        let mut out = std::io::stdout().lock();
        writeln!(out, "{done}").context("stdout")?;
        if last.points_raced > 0 {
            output::note(super::run::raced(&last));
        }
    }
    if parked > 0 {
        output::note(format!(
            "{parked} jobs failed for good; 'avsweep jobs ls {name} --failed{flag}' says why, \
             'avsweep jobs retry {name}{flag}' tries them again",
            name = last.name,
            flag = place.flag()
        ));
        return Ok(Outcome::DoneWithFailures);
    }
    Ok(Outcome::Done)
}

/// Where progress is shown: bars or lines for people, JSON lines for programs.
struct Show<'a> {
    bars: Option<SweepProgressBars>,
    place: &'a Place,
    standstill: Standstill,
}

impl Show<'_> {
    fn update(&mut self, progress: &v1::SweepProgress) -> Result<()> {
        match &mut self.bars {
            Some(bars) => bars.update(progress),
            None => {
                let mut out = std::io::stdout().lock();
                serde_json::to_writer(&mut out, &summarise(progress.clone()))
                    .map_err(std::io::Error::from)
                    .context("stdout")?;
                writeln!(out).and_then(|()| out.flush()).context("stdout")?;
            }
        }
        Ok(())
    }

    async fn tell_standstill(&mut self, connection: &Connection, progress: &v1::SweepProgress) {
        // Where the coordinator is away the stream says so.
        for reason in self.standstill.news(connection, self.place, progress).await.unwrap_or_default() {
            output::note(format!("the sweep stands still: {reason}"));
        }
    }

    fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.finish();
        }
    }
}

/// The progress that ends it; `None` when the user interrupts.
async fn last_progress(
    connection: &Connection,
    sweep: i64,
    show: &mut Show<'_>,
    interrupted: &CancellationToken,
) -> Result<Option<v1::SweepProgress>> {
    let mut wait = FIRST_WAIT;
    loop {
        let ended = tokio::select! {
            () = interrupted.cancelled() => return Ok(None),
            ended = stream(connection, sweep, show, &mut wait) => ended?,
        };
        let reason = match ended {
            Ended::Over(progress) => return Ok(Some(*progress)),
            Ended::Away(reason) => reason,
        };
        if wait == FIRST_WAIT {
            output::note(format!("the coordinator is away ({reason}); watching goes on when it is back"));
        }
        tokio::select! {
            () = interrupted.cancelled() => return Ok(None),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// How one stream ended.
enum Ended {
    Over(Box<v1::SweepProgress>),
    Away(String),
}

async fn stream(
    connection: &Connection,
    sweep: i64,
    show: &mut Show<'_>,
    wait: &mut Duration,
) -> Result<Ended> {
    let request = v1::WatchSweepRequest { sweep: sweep.to_string() };
    let mut stream = match connection.sweeps().watch_sweep(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) if is_away(&status) => return Ok(Ended::Away(explain(status).to_string())),
        Err(status) => return Err(explain(status)),
    };
    // Nothing is sent while nothing changes, which is when there may be something to tell.
    let mut look = tokio::time::interval(standstill::LOOK);
    let mut last = None;
    loop {
        let message = tokio::select! {
            biased;
            message = stream.message() => message,
            _ = look.tick() => {
                if let Some(progress) = &last {
                    show.tell_standstill(connection, progress).await;
                }
                continue;
            }
        };
        match message {
            Ok(Some(update)) => {
                let progress = update.progress.context("an update without progress")?;
                show.update(&progress)?;
                *wait = FIRST_WAIT;
                if matches!(progress.state(), v1::SweepState::Done | v1::SweepState::Cancelled) {
                    return Ok(Ended::Over(Box::new(progress)));
                }
                last = Some(progress);
            }
            Ok(None) => return Ok(Ended::Away("it ended the stream".to_owned())),
            Err(status) if is_away(&status) => return Ok(Ended::Away(explain(status).to_string())),
            Err(status) => return Err(explain(status)),
        }
    }
}
