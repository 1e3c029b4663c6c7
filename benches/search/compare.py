"""Our search beside Optuna's samplers: tables of regret at some numbers of evaluations, and a picture.

    python compare.py --ours ours.csv … --optuna optuna.csv … --picture regret.svg

Ours are written by `avsweep-bench-search replay --csv`, Optuna's by `optuna_peer.py`. Of every surface and number of
evaluations the median over seeds counts; surfaces other than `pocket` are summed up by their mean.
"""

import argparse
import collections
import csv

import numpy

SHOWN = [27, 40, 64, 81, 100, 139, 200]
FIRST, LAST = 27, 200
OURS = "avsweep"
POCKET = "pocket"
MEASURES = ["worst regret", "mean regret", "targets equal"]


def read(ours, optuna):
    """{sampler: {surface: runs × measures × evaluations from FIRST to LAST}}"""
    curves = collections.defaultdict(dict)
    for path in [*ours, *optuna]:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if path in ours:
                    sampler, surface, equal = f"{OURS} {row['strategy']}", row["grid"], row["targets_reached"]
                else:
                    sampler, surface, equal = f"{row['sampler']} {row['mode']}", row["surface"], row["targets_equal"]
                measures = (float(row["worst_regret"]), float(row["mean_regret"]), int(equal))
                curves[sampler, surface, row["seed"]][int(row["evaluations"])] = measures
    runs = collections.defaultdict(lambda: collections.defaultdict(list))
    for (sampler, surface, _), curve in curves.items():
        # A search that has ended keeps what it has found.
        last = max(curve)
        after = [curve[min(n, last)] for n in range(FIRST, LAST + 1)]
        runs[sampler][surface].append(numpy.transpose(after))
    return {
        sampler: {surface: numpy.array(of) for surface, of in surfaces.items()} for sampler, surfaces in runs.items()
    }


def summaries(runs, surfaces):
    """{sampler: measures × evaluations}: the mean over these surfaces of the median over seeds; only who has them all."""
    return {
        sampler: numpy.mean([numpy.median(of[surface], axis=0) for surface in surfaces], axis=0)
        for sampler, of in runs.items()
        if all(surface in of for surface in surfaces)
    }


def order(sampler):
    return not sampler.startswith(OURS), sampler


def print_table(title, curves, seeds):
    for measure, name in enumerate(MEASURES):
        print(f"\n{title}: {name}\n")
        print("| sampler | seeds | " + " | ".join(map(str, SHOWN)) + " |")
        print("|---|---|" + "---|" * len(SHOWN))
        for sampler in sorted(curves, key=order):
            numbers = [curves[sampler][measure][n - FIRST] for n in SHOWN]
            digits = 1 if name == "targets equal" else 3
            print(f"| {sampler} | {seeds[sampler]} | " + " | ".join(f"{number:.{digits}f}" for number in numbers) + " |")


def print_verdicts(runs, ours):
    """Where one of Optuna's is better than ours, of all surfaces and numbers of evaluations."""
    print("\n| sampler | worst regret: ours better, level, worse | mean regret: ours better, level, worse |")
    print("|---|---|---|")
    for sampler in sorted(runs, key=order):
        if sampler.startswith(OURS):
            continue
        cells = []
        for measure in range(2):
            counts = numpy.zeros(3, int)
            for surface in sorted(runs[sampler].keys() & runs[ours].keys()):
                theirs = numpy.median(runs[sampler][surface][:, measure], axis=0)
                gap = theirs - numpy.median(runs[ours][surface][:, measure], axis=0)
                counts += [(gap > 1e-9).sum(), (abs(gap) <= 1e-9).sum(), (gap < -1e-9).sum()]
            cells.append(", ".join(map(str, counts)))
        print(f"| {sampler} | {cells[0]} | {cells[1]} |")


def draw(path, panels):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "avsweep"
    from matplotlib import pyplot

    colours = {"random": "tab:gray", "tpe": "tab:blue", "cmaes": "tab:green", "gp": "tab:purple"}
    figure, axes = pyplot.subplots(2, len(panels), figsize=(6 * len(panels), 8), sharex=True, sharey="row", squeeze=False)
    evaluations = range(FIRST, LAST + 1)
    for column, (title, curves) in enumerate(panels):
        for row in range(2):
            axis = axes[row][column]
            for sampler in sorted(curves, key=order):
                kind, _, mode = sampler.removeprefix("optuna-").partition(" ")
                if sampler.startswith(OURS):
                    style = {"color": "tab:red", "linewidth": 2.5}
                else:
                    style = {"color": colours.get(kind), "linestyle": "--" if mode == "sum" else "-"}
                axis.plot(evaluations, curves[sampler][row], label=sampler, **style)
            axis.set_title(title)
            axis.set_ylabel(f"{MEASURES[row]} of all targets" if column == 0 else "")
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        axes[1][column].set_xlabel("evaluations")
    axes[0][-1].legend(fontsize="small", loc="upper right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--ours", nargs="+", required=True, help="CSV of avsweep-bench-search replay")
    arguments.add_argument("--optuna", nargs="+", required=True, help="CSV of optuna_peer.py")
    arguments.add_argument("--picture", help="an .svg or .png to draw")
    arguments = arguments.parse_args()

    runs = read(arguments.ours, arguments.optuna)
    ours = min(runs, key=order)
    panels = []
    surfaces = sorted(runs[ours])
    synthetic = [surface for surface in surfaces if surface != POCKET]
    # A slow sampler may have been run on some of them only.
    for title, chosen in [
        ("pocket grid", [surface for surface in surfaces if surface == POCKET]),
        (f"{len(synthetic)} synthetic surfaces", synthetic),
    ]:
        if not chosen:
            continue
        curves = summaries(runs, chosen)
        seeds = {sampler: min(len(runs[sampler][surface]) for surface in chosen) for sampler in curves}
        print_table(title, curves, seeds)
        panels.append((title, curves))
    print("\nOver every surface and number of evaluations from 27 to 200, medians over seeds:")
    print_verdicts(runs, ours)
    if arguments.picture:
        draw(arguments.picture, panels)


if __name__ == "__main__":
    main()
