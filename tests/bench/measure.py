#!/usr/bin/env python3
"""Times each benchmark natively, under conprof, built with ThreadSanitizer and under Helgrind, in one run.

CPU time is user plus system time of the process and all it waited for; memory is the peak resident set. Both come
from wait4(2). Each figure is the median of --runs runs, and the variants take turns, so that drift of the machine
hits all of them alike. conprof's plan is in its cache: the first, cold run is timed apart.

    tests/bench/measure.py [--runs N] [--only NAME] [--no-helgrind] [--record docs/bench/DATE-races.md]
"""

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "bench"
TRIPLE = "x86_64-unknown-linux-gnu"
PROGRAMS = ["memory_sweep", "hash_map", "tree", "channel_pipeline", "rayon_matrix", "word_count", "ripgrep"]
RIPGREP = "15.2.0"


def run(command, **more):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    subprocess.run(command, check=True, **more)


def environment(**more):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CARGO_TARGET", "RUSTFLAGS"))}
    env.update(CARGO_PROFILE_RELEASE_DEBUG="line-tables-only", CARGO_PROFILE_RELEASE_STRIP="none", **more)
    return env


def build():
    """Builds everything; returns the programs' folder by variant."""
    native = environment()
    tsan = environment(
        RUSTC_BOOTSTRAP="1", RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    )
    run(["cargo", "build", "--locked", "--release", "--manifest-path", ROOT / "Cargo.toml"], env=environment())
    cargo_build = ["cargo", "build", "--locked", "--release", "--bins", "--manifest-path", BENCH / "Cargo.toml"]
    install = ["cargo", "install", "--quiet", "--locked", "ripgrep", "--version", RIPGREP]
    folders = {"native": TARGET / "native" / "release", "tsan": TARGET / "tsan" / TRIPLE / "release"}
    run([*cargo_build, "--target-dir", TARGET / "native"], env=native)
    if not (folders["native"] / "ripgrep").exists():
        run([*install, "--root", TARGET / "rg", "--target-dir", TARGET / "rg-target"], env=native)
        shutil.copy(TARGET / "rg" / "bin" / "rg", folders["native"] / "ripgrep")
    try:
        toolchain = tsan_toolchain()
        with_toolchain = [f"+{toolchain}"] if toolchain else []
        command = ["cargo", *with_toolchain, *cargo_build[1:], "--target", TRIPLE, "--target-dir", TARGET / "tsan"]
        run(command, env=tsan)
        if not (folders["tsan"] / "ripgrep").exists():
            command = ["cargo", *with_toolchain, *install[1:], "--target", TRIPLE]
            run([*command, "--root", TARGET / "rg-tsan", "--target-dir", TARGET / "rg-tsan-target"], env=tsan)
            shutil.copy(TARGET / "rg-tsan" / "bin" / "rg", folders["tsan"] / "ripgrep")
    except (subprocess.CalledProcessError, LookupError) as error:
        print(f"SKIPPED: ThreadSanitizer: {error}", file=sys.stderr)
        del folders["tsan"]
    return folders


def tsan_toolchain():
    """A toolchain that ships ThreadSanitizer's runtime: the default one, or else nightly."""
    for name in ["", "nightly"]:
        command = ["rustc", *([f"+{name}"] if name else []), "--print", "sysroot"]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            libraries = Path(found.stdout.strip()) / "lib" / "rustlib" / TRIPLE / "lib"
            if list(libraries.glob("*tsan*")):
                return name
    raise LookupError("no toolchain ships its runtime")


def source_tree():
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", ROOT / "Cargo.toml"],
        capture_output=True, text=True, check=True,
    ).stdout
    package = next(p for p in json.loads(metadata)["packages"] if p["name"] == "iced-x86")
    return Path(package["manifest_path"]).parent.parent


def measure(command, env):
    """CPU seconds, peak MiB, wall seconds, exit status."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - start
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, wall, process.returncode


def variants(folders, scratch, helgrind):
    conprof = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "conprof"
    env = dict(os.environ, XDG_CACHE_HOME=str(scratch / "cache"))
    found = {
        "native": (lambda name: [folders["native"] / name], env),
        "conprof": (
            lambda name: [conprof, "run", "--out", scratch / name, "--", folders["native"] / name],
            env,
        ),
    }
    if "tsan" in folders:
        quiet = dict(env, TSAN_OPTIONS="exitcode=0:report_bugs=0")
        found["tsan"] = (lambda name: [folders["tsan"] / name], quiet)
    if helgrind and shutil.which("valgrind"):
        found["helgrind"] = (lambda name: ["valgrind", "-q", "--tool=helgrind", folders["native"] / name], env)
    elif helgrind:
        print("SKIPPED: Helgrind: valgrind is not installed", file=sys.stderr)
    return found


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=PROGRAMS)
    parser.add_argument("--no-helgrind", action="store_true")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()

    folders = build()
    tree = source_tree()
    rows, problems = {}, []
    with tempfile.TemporaryDirectory(prefix="conprof-bench-") as scratch:
        found = variants(folders, Path(scratch), not options.no_helgrind)
        for name in options.only or PROGRAMS:
            more = ["-c", "-j2", r"\w+Error\b", tree] if name == "ripgrep" else []
            samples = {variant: [] for variant in found}
            command, env = found["conprof"]
            cold = measure([*command(name), *more], env)[2]
            for turn in range(options.runs):
                for variant, (command, env) in found.items():
                    if variant == "helgrind" and turn > 0:
                        continue
                    cpu, rss, wall, status = measure([*command(name), *more], env)
                    if status != 0:
                        problems.append(f"{name} under {variant}: status {status}")
                    samples[variant].append((cpu, rss, wall))
            rows[name] = {v: tuple(statistics.median(column) for column in zip(*s)) for v, s in samples.items()}
            rows[name]["cold"] = cold
            print(name, {v: f"{r[0]:.2f}s {r[1]:.0f}M" for v, r in rows[name].items() if v != "cold"}, file=sys.stderr)
    text = record(rows, list(found), problems)
    print(text)
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(text)


def record(rows, names, problems):
    others = [name for name in names if name != "native"]
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    cpu_model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    lines = [
        f"# Cost of race detection, {datetime.date.today()}",
        "",
        f"{cpu_model}, {os.cpu_count()} CPUs, Linux {platform.release()}, {rustc}. Medians; made by `tests/bench/measure.py`.",
        "",
        "## CPU time",
        "",
        "| program | native s | " + " | ".join(f"{name} x" for name in others) + " |",
        "| --- | ---: |" + " ---: |" * len(others),
    ]
    ratios = {name: [] for name in others}
    for program, row in rows.items():
        cells = []
        for name in others:
            ratios[name].append(row[name][0] / row["native"][0])
            cells.append(f"{ratios[name][-1]:.1f}")
        lines.append(f"| {program} | {row['native'][0]:.2f} | " + " | ".join(cells) + " |")
    means = {name: geometric_mean(ratios[name]) for name in others}
    lines.append("| geometric mean | | " + " | ".join(f"{means[name]:.1f}" for name in others) + " |")
    for name in others:
        if name != "conprof":
            lines += ["", f"conprof's CPU time is {means['conprof'] / means[name]:.2f} times that of {name}."]
    lines += [
        "",
        "## Peak resident memory",
        "",
        "| program | native MiB | " + " | ".join(f"{name} x" for name in others) + " | conprof cold start s |",
        "| --- | ---: |" + " ---: |" * (len(others) + 1),
    ]
    for program, row in rows.items():
        cells = [f"{row[name][1] / row['native'][1]:.1f}" for name in others]
        cold = row["cold"] - row["conprof"][2]
        lines.append(f"| {program} | {row['native'][1]:.0f} | " + " | ".join(cells) + f" | {cold:.2f} |")
    lines += ["", "Cold start: wall time of the first run, which plans, less that of a run with the plan in the cache."]
    if problems:
        lines += ["", "Runs that did not end with status 0:", "", *(f"- {problem}" for problem in sorted(set(problems)))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
