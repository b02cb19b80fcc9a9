#!/usr/bin/env python3
"""What watching locks and measuring waits cost whole programs: ratios to native, runs in turn, in one table.

    (cd tests/bench && cargo build --release)
    tests/bench/waiting.py CONPROF LOCK_PROGRAMS [ROUNDS [PROGRAM...]]

Both CPU times are the program's own (`CLOCK_PROCESS_CPUTIME_ID`, which it prints): all of it, with the shim's start, and that
from the beginning of main. The wall time is from there too. A cell has the median over the rounds, and the least run over the least.
"""
import os, statistics, subprocess, sys, tempfile

CONPROF, PROGRAM = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
NAMES = sys.argv[4:] or ["hot", "channel", "words", "echo", "rayon"]
WAYS = {
    "`locks`": ["--checks", "locks", "--sample-rate", "0"],
    "`locks,contention`": ["--checks", "locks,contention", "--sample-rate", "0"],
    "`contention`": ["--checks", "contention", "--sample-rate", "0"],
    "`contention`, samples": ["--checks", "contention"],
}


def figures(command):
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(word) / 1e6 for word in out.split()]


print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {ROUNDS} rounds\n")
print("| program | native CPU, ms | way | CPU | CPU from main on | wall from main on |\n| --- | --- | --- | --- | --- | --- |")
with tempfile.TemporaryDirectory() as folder:
    run = [CONPROF, "run", "-q", "--fail-on", "none", "--out", os.path.join(folder, "out")]
    for name in NAMES:
        times = {way: [] for way in ["native", *WAYS]}
        for round in range(ROUNDS + 1):
            for way in times:
                options = [] if way == "native" else [*run, *WAYS[way], "--"]
                row = figures([*options, PROGRAM, name])
                if round > 0:
                    times[way].append(row)
        native = times.pop("native")
        for way, rows in times.items():
            cells = []
            for which in range(3):
                pairs = [f[which] / n[which] for f, n in zip(rows, native)]
                least = min(f[which] for f in rows) / min(n[which] for n in native)
                cells.append(f"{statistics.median(pairs):.3f}, {least:.3f}")
            print(f"| {name} | {statistics.median(n[0] for n in native):.0f} | {way} | " + " | ".join(cells) + " |", flush=True)
