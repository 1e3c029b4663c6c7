"""Optuna's samplers on recorded grids: regret of all targets against evaluations.

    python optuna_peer.py GRID.npy … --seeds 20 > optuna.csv

A grid is what `avsweep-bench-search dump` writes: every target's value at every point, beside it a .json of the coefficients.

A trial suggests every coefficient as a float with the grid's step; its value is looked up in the record. Two modes:

    each   one study per target, which maximises that target; the studies take turns, so that after n evaluations each has
           had n divided by the number of targets
    sum    one study that maximises the sum over all targets

Either way a target's regret is what the best of *all* points visited so far, by whatever study, lacks to the grid's best;
and a point that was visited before costs nothing: only new ones count as evaluations. Samplers have their defaults but for
what `sampler` below says. Prints CSV.
"""

import argparse
import csv
import json
import multiprocessing
import os
import sys
import time
import warnings

import numpy

SAMPLERS = ["random", "tpe", "cmaes", "gp"]
MODES = ["each", "sum"]
COLUMNS = ["surface", "sampler", "mode", "seed", "evaluations", "worst_regret", "mean_regret", "targets_equal"]

# A study whose sampler repeats itself ends after so many trials for every evaluation of the budget.
MOST_TRIALS = 2


def sampler(name, mode, seed):
    """The sampler of one study."""
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "cmaes":
        # Without margin, the default: better here than with it.
        return optuna.samplers.CmaEsSampler(seed=seed)
    # A target's own study gets a handful of trials: with the default, ten, all of them would be random ones.
    startup = {"n_startup_trials": 3} if mode == "each" else {}
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, **startup)
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True, **startup)


def replay(axes, values, name, mode, seed, budget):
    """Places of the distinct points visited, in order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    objectives = values if mode == "each" else values.sum(axis=0, keepdims=True)
    studies = [
        optuna.create_study(direction="maximize", sampler=sampler(name, mode, 1000 * seed + number))
        for number in range(len(objectives))
    ]
    visited, seen = [], set()
    for trial_number in range(MOST_TRIALS * budget):
        if len(visited) == budget:
            break
        which = trial_number % len(studies)
        trial = studies[which].ask()
        # Points are numbered row by row, the last coefficient varying fastest.
        place = 0
        for axis in axes:
            choices = axis["values"]
            low, high = choices[0], choices[-1]
            step = (high - low) / (len(choices) - 1)
            value = trial.suggest_float(axis["name"], low, high, step=step)
            place = place * len(choices) + round((value - low) / step)
        studies[which].tell(trial, float(objectives[which, place]))
        if place not in seen:
            seen.add(place)
            visited.append(place)
    return visited


def regrets(values, visited, budget):
    """Per number of evaluations: worst and mean regret over all targets, targets whose best is reached."""
    lacks = values.max(axis=1, keepdims=True) - numpy.maximum.accumulate(values[:, visited], axis=1)
    # A sampler that finds nothing new stays where it is.
    lacks = numpy.pad(lacks, ((0, 0), (0, budget - len(visited))), mode="edge")
    return lacks.max(axis=0), lacks.mean(axis=0), (lacks < 1e-9).sum(axis=0)


def work(task):
    surface, axes, values, name, mode, seed, budget = task
    started = time.monotonic()
    visited = replay(axes, values, name, mode, seed, budget)
    return surface, name, mode, seed, regrets(values, visited, budget), time.monotonic() - started


def prepare():
    """One thread a process: there are as many processes as cores are to be used."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("grids", nargs="+", help="dumped grids (.npy)")
    arguments.add_argument("--samplers", default=",".join(SAMPLERS), help="some of %(default)s")
    arguments.add_argument("--modes", default=",".join(MODES), help="some of %(default)s")
    arguments.add_argument("--seeds", type=int, default=20)
    arguments.add_argument("--gp-seeds", type=int, default=3, help="GPSampler takes minutes a run: fewer seeds")
    arguments.add_argument("--from", dest="first", type=int, default=27, help="first number of evaluations reported")
    arguments.add_argument("--budget", type=int, default=200, help="last one")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = arguments.parse_args()

    tasks = []
    for path in arguments.grids:
        values = numpy.load(path)
        stem = os.path.splitext(path)[0]
        surface = os.path.basename(stem)
        with open(stem + ".json") as file:
            axes = json.load(file)["coefficients"]
        for name in arguments.samplers.split(","):
            seeds = min(arguments.seeds, arguments.gp_seeds) if name == "gp" else arguments.seeds
            for mode in arguments.modes.split(","):
                tasks += [(surface, axes, values, name, mode, seed, arguments.budget) for seed in range(seeds)]
    # The long ones first.
    tasks.sort(key=lambda task: task[3] != "gp")

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    prepare()
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(arguments.jobs) as pool:
        for surface, name, mode, seed, (worst, mean, equal), seconds in pool.imap_unordered(work, tasks):
            for n in range(arguments.first, arguments.budget + 1):
                row = [f"{worst[n - 1]:.6f}", f"{mean[n - 1]:.6f}", equal[n - 1]]
                writer.writerow([surface, f"optuna-{name}", mode, seed, n, *row])
            sys.stdout.flush()
            print(f"{surface} {name} {mode} seed {seed}: {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
