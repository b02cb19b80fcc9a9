#!/usr/bin/env python3
"""What measuring waits costs: CPU and wall time as ratios to native runs, interleaved, medians.

    cargo build --release --manifest-path fixtures/Cargo.toml -p contention
    tests/bench/contention.py CONPROF FOLDER_OF_PROGRAMS [ROUNDS]

CPU time is the program's own, which it prints; wall time is the program's, from report.json, or around the native run.
"""
import json, os, statistics, subprocess, sys, tempfile, time

CONPROF, FOLDER = sys.argv[1], sys.argv[2]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
PROGRAMS = ["word_sums", "hog", "work_queue", "rayon_totals", "echo"]
WAYS = {
    "contention": ["--checks", "contention"],
    "contention, no samples": ["--checks", "contention", "--sample-rate", "0"],
    "all checks": [],
}


def cpu(text):
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("cpu "))


def native(program):
    start = time.monotonic()
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return cpu(out), time.monotonic() - start


def checked(program, options):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = [CONPROF, "run", "-q", "--fail-on", "none", "--out", out, *options, "--", program]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        with open(os.path.join(out, "report.json")) as file:
            return cpu(text), json.load(file)["processes"][0]["duration_ns"] / 1e9


print(f"{'program':14} {'way':24} {'CPU':>6} {'wall':>6}   (load {os.getloadavg()[0]:.1f}, {ROUNDS} rounds)")
for name in PROGRAMS:
    program = os.path.join(FOLDER, name)
    results = {way: [] for way in WAYS}
    natives = []
    for options in WAYS.values():
        checked(program, options)  # the plan is cached from here on
    for _ in range(ROUNDS):
        natives.append(native(program))
        for way, options in WAYS.items():
            results[way].append(checked(program, options))
    base_cpu, base_wall = (statistics.median(column) for column in zip(*natives))
    for way, rows in results.items():
        way_cpu, way_wall = (statistics.median(column) for column in zip(*rows))
        print(f"{name:14} {way:24} {way_cpu / max(base_cpu, 1):6.3f} {way_wall / base_wall:6.3f}", flush=True)
