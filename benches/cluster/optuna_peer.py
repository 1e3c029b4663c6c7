"""Trials per second of Optuna's RDB storage: processes that share one study in one PostgreSQL database.

    python optuna_peer.py --url postgresql+psycopg2://… --processes 16 --seconds 10

Each trial suggests three floats (RandomSampler) and returns a trivial objective. Counted are the trials that complete
in the window, after every process has completed its first. Prints one line of JSON.
"""

import argparse
import json
import multiprocessing
import time

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

STUDY = "peer"


def objective(trial):
    return sum(trial.suggest_float(name, -1.0, 1.0) for name in ("alpha", "beta", "gamma"))


def work(url, seed, ready, ended, trials):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=STUDY, storage=RDBStorage(url), sampler=RandomSampler(seed=seed))

    def count(study, _):
        with trials.get_lock():
            trials.value += 1
        if ended.is_set():
            study.stop()

    study.optimize(objective, n_trials=1, callbacks=[count])
    ready.wait()
    study.optimize(objective, callbacks=[count])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--url", required=True, help="SQLAlchemy URL of an empty PostgreSQL database")
    arguments.add_argument("--processes", type=int, default=16)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments = arguments.parse_args()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name=STUDY, storage=RDBStorage(arguments.url))
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Barrier(arguments.processes + 1)
    ended = spawning.Event()
    trials = spawning.Value("q", 0)
    processes = [
        spawning.Process(target=work, args=(arguments.url, seed, ready, ended, trials), daemon=True)
        for seed in range(arguments.processes)
    ]
    for process in processes:
        process.start()
    ready.wait(timeout=300)
    started, before = time.monotonic(), trials.value
    time.sleep(arguments.seconds)
    seconds, counted = time.monotonic() - started, trials.value - before
    ended.set()
    for process in processes:
        process.join(timeout=120)
        if process.exitcode != 0:
            raise SystemExit(f"a process ended with {process.exitcode}: its trials are missing")
    # What was counted must be in the storage.
    study = optuna.load_study(study_name=STUDY, storage=RDBStorage(arguments.url))
    stored = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if stored != trials.value:
        raise SystemExit(f"{trials.value} trials were counted, {stored} are stored")
    print(
        json.dumps(
            {
                "optuna": optuna.__version__,
                "processes": arguments.processes,
                "trials": counted,
                "seconds": seconds,
                "trials_per_second": counted / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
