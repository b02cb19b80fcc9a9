#!/usr/bin/env python3
"""What starting under conprof costs: a large program with a cold and with a cached plan, and short test processes.

    cargo build --release
    tests/bench/start.py CONPROF LARGE_PROGRAM SHORT_PROGRAM [ROUNDS]

LARGE_PROGRAM is called with `--version` and should do next to nothing, so that what is measured is scanning, planning, applying the
plan and reporting. SHORT_PROGRAM is a test binary, run as under `cargo conprof test`: JSON only, the plan cached. The start is over at
the program's first output; the other times are around the whole of conprof, its children included. The native run's times are taken
off. On a shared machine the least wall time and the CPU time say most.
"""
import os, resource, statistics, subprocess, sys, tempfile, time

CONPROF, LARGE, SHORT = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 10


def cost(command, environment):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.read(1)
    first = time.monotonic() - start
    process.stdout.read()
    if process.wait() != 0:
        sys.exit(f"{command} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return first, time.monotonic() - start, cpu


def row(name, costs, natives):
    first, wall, cpu = zip(*costs)
    native_first, native_wall, native_cpu = (statistics.median(values) for values in zip(*natives))
    cells = [
        min(first) - native_first,
        statistics.median(first) - native_first,
        min(wall) - native_wall,
        statistics.median(wall) - native_wall,
        statistics.mean(cpu) - native_cpu,
    ]
    print(f"| {name} | " + " | ".join(f"{seconds * 1000:.0f}" for seconds in cells) + " |", flush=True)


with tempfile.TemporaryDirectory() as folder:
    environment = dict(os.environ, XDG_CACHE_HOME=os.path.join(folder, "cache"))
    out = os.path.join(folder, "out")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {ROUNDS} rounds; {os.path.getsize(LARGE) / 1e6:.0f} MB and {os.path.getsize(SHORT) / 1e6:.0f} MB\n")
    print("| added, ms | start, least | start, median | whole, least | whole, median | CPU |\n| --- | --- | --- | --- | --- | --- |")
    large = [LARGE, "--version"]
    native = [cost(large, environment) for _ in range(ROUNDS)]
    run = [CONPROF, "run", "-q", "--out", out, "--", *large]
    cold = []
    for _ in range(max(ROUNDS // 3, 2)):
        subprocess.run(["rm", "-rf", os.path.join(folder, "cache")], check=True)
        cold.append(cost(run, environment))
    row("large program, cold", cold, native)
    row("large program, cached plan", [cost(run, environment) for _ in range(ROUNDS)], native)
    native = [cost([SHORT], environment) for _ in range(ROUNDS)]
    session = [CONPROF, "run", "-q", "--session", os.path.join(folder, "session"), "--", SHORT]
    cost(session, environment)
    row("short test process", [cost(session, environment) for _ in range(ROUNDS)], native)
