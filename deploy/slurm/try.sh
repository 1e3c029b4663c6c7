#!/usr/bin/env bash
# Tries the Slurm way for real, on this one machine: a private Slurm (slurmctld, slurmd, munge), a coordinator with TLS
# and tokens, a judge, and workers submitted with `avsweep slurm submit`. While the pocket family's sweep runs
#   - a running worker's task is requeued (`scontrol requeue`),
#   - a worker is killed (SIGKILL), so that its lease runs out, and its task requeued,
#   - all workers are preempted by a job of a more important partition,
#   - one's task reaches its time limit and queues itself again,
# and at the end the cluster's export must equal that of an undisturbed `avsweep run`, row by row.
#
#   deploy/slurm/try.sh [--keep] [SWEEP.yaml]        --keep: leave the folder with logs and stores
#
# Needs root, Debian or Ubuntu (slurm-wlm is installed when it is missing) and about four minutes. Nothing of an
# installed Slurm is touched: own folder, own ports on 127.0.0.1, own munge key. AVSWEEP_BINARY names the avsweep to
# try; without it, it is built. AVSWEEP_STORE (postgres://…, an empty database): not a SQLite file, but this.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

keep=no
[[ ${1:-} == --keep ]] && { keep=yes; shift; }
sweep_file=$(realpath "${1:-$repository/examples/pocket/coarse.yaml}")
sweep=$(sed -n 's/^name: *//p' "$sweep_file")

folder=$(mktemp -d "${TMPDIR:-/tmp}/avsweep-slurm.XXXXXX")
# slurmd hands the folder's files to jobs, munge its socket to clients.
chmod 755 "$folder"
daemons=()

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
fail() {
  say "FAILED: $*"
  keep=yes
  exit 1
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds, and no longer than that.
wait_for() {
  local seconds=$1 what=$2 deadline=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "not within $seconds s: $what"
    sleep 0.5
  done
}

taken_down=no
# shellcheck disable=SC2317  # called by the trap
take_down() {
  local status=$?
  [[ $taken_down == yes ]] && return
  taken_down=yes
  set +e
  if [[ -e $folder/slurm.conf ]]; then
    scancel --user=root --full --signal=KILL 2>/dev/null
    scancel --user=root 2>/dev/null
    for _ in {1..40}; do
      squeue --noheader --states=all --format %T 2>/dev/null | grep -qE 'RUNNING|COMPLETING' || break
      sleep 0.5
    done
  fi
  # In the reverse order of their start; each is a child of this shell.
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
    kill -TERM "${daemons[i]}" 2>/dev/null
    for _ in {1..60}; do
      kill -0 "${daemons[i]}" 2>/dev/null || break
      sleep 0.25
    done
    kill -KILL "${daemons[i]}" 2>/dev/null
  done
  wait
  if [[ $keep == yes ]]; then
    say "logs and stores: $folder"
  else
    rm -rf "$folder"
  fi
  say "taken down"
  exit "$status"
}
trap take_down EXIT
trap 'exit 130' INT TERM

[[ $(id -u) == 0 ]] || fail "needs root: slurmd starts jobs as their users (SlurmUser=root is for this trial only)"
for program in slurmctld slurmd munged; do
  if ! command -v "$program" >/dev/null; then
    say "installing slurm-wlm ($program is missing)"
    command -v apt-get >/dev/null || fail "$program is missing and there is no apt-get: install Slurm and munge"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$folder/apt.log" 2>&1
    # No service is to start from the packages: the trial starts its own.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge openssl \
      >>"$folder/apt.log" 2>&1 || { tail -5 "$folder/apt.log"; fail "slurm-wlm could not be installed"; }
  fi
done

binary=${AVSWEEP_BINARY:-}
if [[ -z $binary ]]; then
  say "building avsweep"
  (cd "$repository" && cargo build --quiet --locked -p avsweep-cli)
  binary=${CARGO_TARGET_DIR:-$repository/target}/debug/avsweep
fi
binary=$(realpath "$binary")
say "$("$binary" --version), $(slurmctld -V), sweep '$sweep' of $sweep_file"

# ---- the undisturbed run: one process, no network
mkdir "$folder/undisturbed"
(cd "$folder/undisturbed" && "$binary" --store undisturbed.db run "$sweep_file" >run.log 2>&1) ||
  fail "the undisturbed run: $(tail -3 "$folder/undisturbed/run.log")"
"$binary" --store "$folder/undisturbed/undisturbed.db" export "$sweep" --format csv >"$folder/undisturbed.csv"
say "undisturbed run: $(($(wc -l <"$folder/undisturbed.csv") - 1)) results"

# ---- ports that nothing listens on
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
controller_port=$(free_port)
node_port=$(free_port)
coordinator_port=$(free_port)
metrics_port=$(free_port)

# ---- a private Slurm
host=$(hostname -s)
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
mkdir "$folder"/{munge,state,spool}
chmod 755 "$folder/munge"
cat >"$folder/slurm.conf" <<CONF
ClusterName=avsweep-try
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credential of its former start has run out: 120 s by default.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MailProg=/bin/true
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=try Nodes=$host Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=$host PriorityTier=2 MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

munged --foreground --force --socket="$folder/munge/socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munge/munged.pid" --seed-file="$folder/munge/seed" --log-file="$folder/munge/munged.log" \
  >"$folder/munge/output" 2>&1 &
daemons+=($!)
wait_for 10 "munged answers ($(cat "$folder/munge/output"))" \
  munge --no-input --socket="$folder/munge/socket" --output=/dev/null
slurmctld -D -f "$SLURM_CONF" >"$folder/slurmctld.output" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" -N "$host" >"$folder/slurmd.output" 2>&1 &
daemons+=($!)
# shellcheck disable=SC2317  # called by wait_for
node_is_idle() { sinfo --noheader --format %T | grep -q '^idle'; }
wait_for 30 "Slurm's node is idle: see $folder/slurm*.log" node_is_idle
say "Slurm is up: $(sinfo --noheader --partition try --format 'partition %P, node %N, %c CPUs, %T')"

# ---- a coordinator with TLS and tokens, and a judge
"$repository/deploy/make-certificates.sh" "$folder/tls" localhost 127.0.0.1
export AVSWEEP_CA=$folder/tls/ca.pem
address=https://localhost:$coordinator_port
AVSWEEP_CA='' "$binary" coordinator --listen "127.0.0.1:$coordinator_port" --metrics-listen "127.0.0.1:$metrics_port" \
  --store "${AVSWEEP_STORE:-$folder/cluster.db}" --migrate --lease 10 \
  --tls-cert "$folder/tls/coordinator.pem" --tls-key "$folder/tls/coordinator.key" \
  --user-token-file "$folder/tls/user.token" --worker-token-file "$folder/tls/worker.token" \
  --judge-token-file "$folder/tls/judge.token" --metrics-token-file "$folder/tls/metrics.token" \
  >"$folder/coordinator.log" 2>&1 &
daemons+=($!)
user() { "$binary" "$@" --coordinator "$address" --token-file "$folder/tls/user.token"; }
wait_for 20 "the coordinator answers: see $folder/coordinator.log" user sweep ls
"$binary" judge --coordinator "$address" --token-file "$folder/tls/judge.token" --name judge --drain 5 \
  >"$folder/judge.log" 2>&1 &
daemons+=($!)
say "coordinator and judge are up"

# ---- the sweep and its workers
export AVSWEEP_WORKER_DRAIN=15
submit() {
  "$binary" slurm submit "$@" --coordinator "$address" --token-file "$folder/tls/user.token" \
    --worker-token-file "$folder/tls/worker.token" --cpus 1 --mem 1G --partition try --idle-timeout 120 \
    "--sbatch-option=--chdir=$folder"
}
# The number that Slurm gave the array.
submitted() { submit "$@" --output json 2>>"$folder/submit.log" | sed -n 's/.*"job": *"\([0-9]*\)".*/\1/p'; }
say "what is submitted:"
submit "$sweep_file" --array 2 --time 00:30:00 --dry-run 2>&1 | sed '/SCRIPT/q' | sed 's/^/    /'
array=$(submitted "$sweep_file" --array 2 --time 00:30:00)
# The limit of this one is 2 minutes, and TERM comes up to 2 minutes before: its worker meets its end while it runs.
short=$(submitted --array 1 --time 00:02:00 --job-name short)
[[ -n $array && -n $short ]] || fail "slurm submit: $(tail -3 "$folder/submit.log")"
say "submitted: array $array with 2 workers, and $short with a time limit of 2 minutes"

log() { echo "$folder/avsweep-worker-$1.log"; }
# shellcheck disable=SC2317  # called by wait_for
says() { grep -q "$2" "$(log "$1")"; }
results() { user export "$sweep" --format csv 2>/dev/null | tail -n +2 | wc -l; }
# shellcheck disable=SC2317  # called by wait_for
more_results_than() { (($(results) > $1)); }
for task in "${array}_0" "${array}_1" "${short}_0"; do
  wait_for 60 "worker $task starts: see $(log "$task")" says "$task" "starts"
done
wait_for 60 "first results" more_results_than 1000
squeue --array --format '%.8i %.16j %.10T %.10M %.10l %R' | sed 's/^/    /'

# ---- a running worker's task is requeued
before=$(results)
scontrol requeue "${array}_0"
say "requeued ${array}_0 at $before results: $(squeue --noheader --array --job "${array}_0" --format '%T %r')"
wait_for 40 "the requeued worker drains" says "${array}_0" "ended with"
say "$(grep 'ended with' "$(log "${array}_0")" | tail -1)"

# ---- a crash, and an administrator who requeues the failed task
victim=
for process in $(pgrep --full -- "$binary worker"); do
  environment=$(tr '\0' '\n' <"/proc/$process/environ") || continue
  if grep -q "^SLURM_ARRAY_JOB_ID=$array$" <<<"$environment" && grep -q '^SLURM_ARRAY_TASK_ID=1$' <<<"$environment"; then
    victim=$process
  fi
done
[[ -n $victim ]] || fail "no worker process of ${array}_1"
kill -KILL "$victim"
say "killed the worker of ${array}_1 (process $victim)"
wait_for 20 "the killed worker's task ends" says "${array}_1" "ended with 137"
# shellcheck disable=SC2317  # called by wait_for
failed_and_requeued() { scontrol requeue "${array}_1"; }
wait_for 20 "Slurm takes the failed task back" failed_and_requeued
say "requeued ${array}_1"

# back TASK RESTART: the task has started for that time.
back() {
  wait_for 120 "worker $1 starts for restart $2: see $(log "$1")" says "$1" "starts on .* restart $2$"
  say "$(grep "restart $2$" "$(log "$1")" | tail -1)"
}
back "${array}_0" 1
back "${array}_1" 1

# ---- a preemption: a job of the urgent partition wants all cores
sbatch --quiet --partition urgent --cpus-per-task 4 --time 1 --output "$folder/urgent.log" --wrap 'sleep 1; echo it ran'
wait_for 60 "the urgent job has run" grep -q 'it ran' "$folder/urgent.log"
say "preempted by an urgent job at $(results) results"
back "${array}_0" 2
back "${array}_1" 2
back "${short}_0" 1

# ---- a time limit
wait_for 180 "the task at its time limit queues itself again" says "${short}_0" "queued again"
say "$(grep 'queued again' "$(log "${short}_0")" | tail -1)"
back "${short}_0" 2

# ---- the end of the sweep
say "waiting for the sweep"
timeout 600 "$binary" sweep watch "$sweep" --coordinator "$address" --token-file "$folder/tls/user.token" \
  >"$folder/watch.log" 2>&1 || fail "sweep watch ended with $?: $(tail -3 "$folder/watch.log")"
user workers ls --all 2>&1 | sed 's/^/    /'
user export "$sweep" --format csv >"$folder/cluster.csv"
if ! diff <(sort "$folder/undisturbed.csv") <(sort "$folder/cluster.csv") >"$folder/difference"; then
  head -5 "$folder/difference"
  fail "the exports differ in $(grep -c '^[<>]' "$folder/difference") rows"
fi
say "PASSED: $(($(wc -l <"$folder/cluster.csv") - 1)) results, identical to the undisturbed run's"
