//! `avsweep slurm submit`: a job array of workers.
//!
//! The script is the one in `deploy/slurm`, carried in this program; everything is told to it by its environment.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_proto::v1;
use serde::Serialize;

use super::Outcome;
use crate::arguments::{Format, SlurmArguments, SlurmCommand, SubmitArguments};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output;
use crate::remote;
use crate::sweep_file;
use crate::usage::UsageError;

/// The script that each task of the array runs.
const SCRIPT: &str = include_str!("../../../deploy/slurm/worker.sbatch");

#[derive(Serialize)]
struct SubmissionOutput {
    /// sbatch and its arguments.
    command: Vec<String>,
    /// What the tasks' environment has beside the submitter's own.
    environment: Vec<(&'static str, String)>,
    script: &'static str,
    /// Slurm's number of the array; none after a dry run.
    job: Option<String>,
    /// The sweep created on the way.
    sweep: Option<String>,
}

/// `avsweep slurm …`
pub(super) async fn run(arguments: &SlurmArguments, format: Format) -> Result<Outcome> {
    let SlurmCommand::Submit(submit) = &arguments.command;
    let mut submission = SubmissionOutput {
        command: command(submit),
        environment: environment(arguments, submit)?,
        script: SCRIPT,
        job: None,
        sweep: None,
    };
    if submit.dry_run {
        if let Some(file) = &submit.sweep {
            submission.sweep = Some(sweep_file::name_in(file)?);
        }
        output::print(format, &submission, |submission, out| {
            if let Some(sweep) = &submission.sweep {
                writeln!(out, "# would create sweep '{sweep}' first")?;
            }
            for (name, value) in &submission.environment {
                writeln!(out, "export {name}={}", output::shell(value))?;
            }
            let words: Vec<_> = submission.command.iter().map(output::shell).collect();
            writeln!(out, "{} <<'SCRIPT'", words.join(" "))?;
            write!(out, "{}", submission.script)?;
            writeln!(out, "SCRIPT")
        })?;
        return Ok(Outcome::Done);
    }
    if let Some(file) = &submit.sweep {
        submission.sweep = Some(create(arguments, submit, file).await?);
    }
    submission.job = Some(submit_array(&submission)?);
    output::print(format, &submission, |submission, out| {
        writeln!(
            out,
            "submitted job {} with {} workers",
            submission.job.as_deref().unwrap_or_default(),
            submit.array
        )
    })?;
    Ok(Outcome::Done)
}

/// sbatch with what is asked of Slurm; the script's own directives stand behind these.
fn command(submit: &SubmitArguments) -> Vec<String> {
    let mut command = vec![
        "sbatch".to_owned(),
        "--parsable".to_owned(),
        "--export=ALL".to_owned(),
        format!("--job-name={}", submit.job_name),
        format!("--array=0-{}", submit.array - 1),
        format!("--cpus-per-task={}", submit.cpus),
        format!("--mem={}", submit.mem),
        format!("--time={}", submit.time),
        "--requeue".to_owned(),
        // To the script alone: it forwards the signal, and queues the task again.
        format!("--signal=B:TERM@{}", submit.signal_before),
    ];
    if submit.gpus > 0 {
        command.push(format!("--gres=gpu:{}", submit.gpus));
    }
    command.extend(submit.partition.iter().map(|partition| format!("--partition={partition}")));
    command.extend(submit.account.iter().map(|account| format!("--account={account}")));
    command.extend(submit.sbatch_options.iter().cloned());
    command
}

/// What the workers are told.
fn environment(arguments: &SlurmArguments, submit: &SubmitArguments) -> Result<Vec<(&'static str, String)>> {
    let connection = &arguments.connection;
    let coordinators = remote::coordinators(connection)?;
    if let Some(local) = coordinators.iter().find(|url| url.is_loopback()) {
        output::note(format!("note: {local} is each node itself: workers on other nodes will not find it"));
    }
    let token_file = submit.worker_token_file.as_ref();
    if token_file.is_none() && (connection.token_file.is_some() || std::env::var_os(remote::TOKEN).is_some())
    {
        return Err(UsageError::new(
            "the workers want a token of their own, not the user's: give it by --worker-token-file FILE, on a file \
             system that the nodes share (Slurm keeps the environment of jobs where others may read it)",
        )
        .into());
    }
    if let Some(file) = token_file
        && !file.is_file()
    {
        return Err(UsageError::new(format!(
            "--worker-token-file {}: there is no such file; the workers' token is to be in it",
            file.display()
        ))
        .into());
    }
    let urls: Vec<_> = coordinators.iter().map(ToString::to_string).collect();
    let mut environment = vec![("AVSWEEP_COORDINATOR", urls.join(","))];
    let files = [
        ("AVSWEEP_TOKEN_FILE", token_file),
        ("AVSWEEP_CA", connection.ca.as_ref()),
        ("AVSWEEP_CERT", connection.cert.as_ref()),
        ("AVSWEEP_KEY", connection.key.as_ref()),
        ("AVSWEEP_CACHE", submit.cache.as_ref()),
        ("AVSWEEP_WORKER_MODEL_ROOT", submit.model_root.as_ref()),
    ];
    for (name, path) in files {
        if let Some(path) = path {
            environment.push((name, absolute(path)?));
        }
    }
    if let Some(name) = &connection.server_name {
        environment.push(("AVSWEEP_SERVER_NAME", name.clone()));
    }
    if connection.insecure {
        environment.push(("AVSWEEP_INSECURE", "true".to_owned()));
    }
    environment.push(("AVSWEEP_WORKER_IDLE_TIMEOUT", submit.idle_timeout.to_string()));
    environment.push(("AVSWEEP_BINARY", program(submit)?));
    Ok(environment)
}

fn program(submit: &SubmitArguments) -> Result<String> {
    match &submit.program {
        // A bare name is looked up on each node's PATH.
        Some(program) if program.components().count() == 1 => {
            program.to_str().map(str::to_owned).context("--program is not valid UTF-8")
        }
        Some(program) => absolute(program),
        None => absolute(&std::env::current_exe().context("this program's own path")?),
    }
}

fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("{}", path.display()))?;
    absolute.to_str().map(str::to_owned).with_context(|| format!("{}: is not valid UTF-8", path.display()))
}

/// Creates the sweep that the workers are for.
async fn create(arguments: &SlurmArguments, submit: &SubmitArguments, file: &Path) -> Result<String> {
    let cache = crate::arguments::CacheArguments { cache: submit.cache.clone() }.folder();
    let definition = sweep_file::load(file, &cache).await?.definition;
    let place = Place::Coordinator(arguments.connection.clone());
    let connection = Connection::open(&place, Access::Create).await?;
    let request = v1::CreateSweepRequest { definition: Some((&definition).into()), priority: 0 };
    let created = connection.sweeps().create_sweep(request).await.map_err(explain)?.into_inner();
    output::note(format!(
        "sweep '{}' (number {}) is {}",
        definition.name,
        created.sweep,
        if created.created { "created" } else { "there already" }
    ));
    Ok(definition.name)
}

/// Gives the script to sbatch; returns Slurm's number of the array.
fn submit_array(submission: &SubmissionOutput) -> Result<String> {
    let (program, options) = submission.command.split_first().context("an empty command")?;
    let mut sbatch = Command::new(program)
        .args(options)
        .envs(submission.environment.iter().map(|(name, value)| (name, value)))
        // Slurm would write it to its state files.
        .env_remove(remote::TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} cannot be started; --dry-run prints what would be submitted"))?;
    let mut stdin = sbatch.stdin.take().context("sbatch's input")?;
    let written = stdin.write_all(submission.script.as_bytes());
    drop(stdin);
    let ended = sbatch.wait_with_output().context("sbatch")?;
    // What sbatch says on stderr is on ours already.
    ensure!(ended.status.success(), "sbatch refused the job: it ended with {}", ended.status);
    written.context("sbatch did not take the script")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    // `job` or `job;cluster`
    match said.trim().split(';').next() {
        Some(job) if !job.is_empty() => Ok(job.to_owned()),
        _ => bail!("sbatch named no job: it said {said:?}"),
    }
}
