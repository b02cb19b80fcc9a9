#!/usr/bin/env python3
"""What watching locks costs whole programs: CPU time as a ratio to native, runs in turn, medians, in one table.

    (cd tests/bench && cargo build --release)
    tests/bench/locks.py CONPROF LOCK_PROGRAMS [ROUNDS]

The CPU time is the program's own (`CLOCK_PROCESS_CPUTIME_ID`, which it prints): once all of it, with the shim's start, and once
from the beginning of main.
"""
import os, statistics, subprocess, sys, tempfile

CONPROF, PROGRAM = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
WAYS = {"locks": ["--checks", "locks"], "locks,contention": ["--checks", "locks,contention"]}


def cpu(command):
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(word) / 1e6 for word in out.split()]


print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {ROUNDS} rounds\n")
print("| program | native, ms | way | CPU | least | from main on | least |\n| --- | --- | --- | --- | --- | --- | --- |")
with tempfile.TemporaryDirectory() as folder:
    run = [CONPROF, "run", "-q", "--fail-on", "none", "--sample-rate", "0", "--out", os.path.join(folder, "out")]
    for name in ["hot", "channel", "words", "echo"]:
        times = {way: [] for way in ["native", *WAYS]}
        for round in range(ROUNDS + 1):
            for way in times:
                options = [] if way == "native" else [*run, *WAYS[way], "--"]
                figures = cpu([*options, PROGRAM, name])
                if round > 0:
                    times[way].append(figures)
        native = times.pop("native")
        for way, figures in times.items():
            cells = []
            for which in range(2):
                pairs = [f[which] / n[which] for f, n in zip(figures, native)]
                least = min(f[which] for f in figures) / min(n[which] for n in native)
                cells += [f"{statistics.median(pairs):.3f}", f"{least:.3f}"]
            print(f"| {name} | {statistics.median(n[0] for n in native):.0f} | {way} | " + " | ".join(cells) + " |", flush=True)
