#!/usr/bin/env python3
"""Scoring and generating, ours beside the peers in turns on the same cores; prints a table of ratios.

usage: compare_run.py BENCH THREADS TURNS NAME=MODEL:QUERIES:SCORED:ANSWERED …     (BENCH: avsweep-bench-engine)

Of each query file the first SCORED and ANSWERED lines are used. Every program is loaded before the first turn; one runs
at a time. Exits with 1 when the f32 log-probabilities of ours and transformers differ by more than 1e-3 a reference, or
their greedy texts differ.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NEW_TOKENS = "64"
TOLERANCE = 1e-3


class Runner:
    """A program that runs a round for every line it is given."""

    def __init__(self, name, command, threads):
        self.name, self.rounds, self.cpu = name, [], []
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def round(self):
        before = self.cpu_seconds()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            return False
        self.rounds.append(json.loads(answer))
        self.cpu.append(self.cpu_seconds() - before)
        return True

    def cpu_seconds(self):
        """What the program's threads have had of the cores so far."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget(self):
        self.rounds.clear()
        self.cpu.clear()

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def median(self):
        return statistics.median(one["seconds"] for one in self.rounds)

    def median_cpu(self):
        return statistics.median(self.cpu)


def compare(task, name, model, queries, bench, threads, turns):
    python = sys.executable
    runners = []
    for dtype in ("f32", "bf16"):
        command = [bench, task, "--model", model, "--queries", queries, "--dtype", dtype]
        command += ["--new-tokens", NEW_TOKENS] if task == "generate" else []
        runners.append(Runner(f"ours, {dtype} weights", command, threads))
        runners[-1].round()
    for dtype in ("float32", "bfloat16"):
        command = [python, str(HERE / "peer_transformers.py"), task, model, queries, dtype, threads, NEW_TOKENS]
        runners.append(Runner(f"transformers, {dtype}", command, threads))
        runners[-1].round()
    if task == "generate":
        for kind in ("f32", "f16"):
            command = [python, str(HERE / "peer_llama.py"), model, queries, kind, threads, NEW_TOKENS]
            runner = Runner(f"llama.cpp, {kind}", command, threads)
            if runner.round():
                runners.append(runner)
            else:
                print(f"{runner.name} did not run on {name} and is left out", file=sys.stderr)
    # Those rounds loaded the weights; they do not count.
    for runner in runners:
        runner.forget()
    for _ in range(turns):
        for runner in runners:
            if not runner.round():
                sys.exit(f"{runner.name} ended early")
    for runner in runners:
        runner.end()
    return report(task, name, runners)


def report(task, name, runners):
    ours, exact = runners[0], runners[2]
    key = "scores" if task == "score" else "texts"
    own = ours.rounds[0][key]
    tokens = sum(one[1] for one in own)
    for runner in runners:
        theirs = runner.rounds[0][key]
        if task == "score":
            same = f"{max(abs(a[0] - b[0]) for a, b in zip(own, theirs)):.1e}"
        else:
            same = f"{sum(a == b for a, b in zip(own, theirs))} of {len(own)}"
        seconds = runner.median()
        spread = f"{min(one['seconds'] for one in runner.rounds):.2f} to {max(one['seconds'] for one in runner.rounds):.2f}"
        print(f"| {task}, {name} | {runner.name} | {runner.rounds[0].get('way', '')} | {seconds:.2f} ({spread}) "
              f"| {tokens / seconds:.0f} | {seconds / ours.median():.2f} | {runner.median_cpu():.2f} "
              f"| {runner.median_cpu() / ours.median_cpu():.2f} | {same} |", flush=True)
    theirs = exact.rounds[0][key]
    if task == "score":
        return all(a[1] == b[1] and abs(a[0] - b[0]) <= TOLERANCE for a, b in zip(own, theirs, strict=True))
    return own == theirs


def main():
    bench, threads, turns, *models = sys.argv[1:]
    print(f"load average {os.getloadavg()[0]:.1f} at the start", file=sys.stderr)
    print("| what | who | its fastest way | seconds a round (fastest to slowest) | tokens/s | times ours | CPU seconds "
          "| times ours | largest difference, or equal texts |")
    print("|---|---|---|---|---|---|---|---|---|")
    equal = True
    with tempfile.TemporaryDirectory() as scratch:
        for spec in models:
            name, rest = spec.split("=", 1)
            model, path, scored, answered = rest.split(":")
            for task, count in (("score", scored), ("generate", answered)):
                queries = Path(scratch) / "queries.jsonl"
                queries.write_text("".join(open(path).readlines()[: int(count)]))
                equal &= compare(task, name, model, str(queries), bench, threads, int(turns))
    print(f"load average {os.getloadavg()[0]:.1f} at the end", file=sys.stderr)
    if not equal:
        sys.exit("ours and transformers in f32 differ")


main()
