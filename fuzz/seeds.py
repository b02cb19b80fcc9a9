#!/usr/bin/env python3
"""Inputs for the fuzz targets to start from: seeds.py WORK PROGRAM SEEDS, called by fuzz/run.

WORK holds a result in `out`, a cache in `cache` and a file `baseline`.
"""

import pathlib
import struct
import subprocess
import sys
import tempfile

WORK, PROGRAM, SEEDS = map(pathlib.Path, sys.argv[1:4])
HEADER_BYTES = 4096
TABLES_AT, TABLE_BYTES, TABLE_COUNT = 16, 32, 16


def seed(target, name, content):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def compact(recording, rows):
    """The recording with at most `rows` rows a table, the tables side by side."""
    header = bytearray(recording[:HEADER_BYTES])
    body = b""
    starts = []
    for table in range(TABLE_COUNT):
        starts.append(struct.unpack_from("<QQQ", header, TABLES_AT + table * TABLE_BYTES))
    ends = sorted(offset for offset, _, _ in starts) + [len(recording)]
    for table, (offset, capacity, count) in enumerate(starts):
        if capacity == 0:
            continue
        end = next(end for end in ends if end > offset)
        row_bytes = (end - offset) // capacity
        kept = min(count, capacity, rows)
        at = HEADER_BYTES + len(body)
        body += recording[offset : offset + kept * row_bytes]
        struct.pack_into("<QQQ", header, TABLES_AT + table * TABLE_BYTES, at, kept, kept)
    # Reading the debuginfo of real libraries again for each input would be all that the target does.
    for folder in (b"/lib/", b"/usr/"):
        body = body.replace(folder, b"/nil/")
    return bytes(header) + body


def program(source, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "a.c").write_text(source)
        subprocess.run(["cc", "-o", path / "a", path / "a.c", *options], check=True)
        return (path / "a").read_bytes()


recording = (WORK / "out/recording").read_bytes()
for rows in (40, 400):
    seed("recording", f"rows-{rows}", compact(recording, rows))
for entry in (WORK / "cache/conprof").glob("*.plan"):
    # The trailer alone tells where the plan ends; the header of a large plan is what is read of it.
    seed("plan", "header", entry.read_bytes()[:65536])
small = "static int n; int main(int c, char **v) { switch (c) { case 1: n++; break; case 2: n--; break; case 3: n = 7; break; case 4: return 9; } return __atomic_load_n(&n, 5); }"
for options in (["-g"], ["-O2", "-g"], ["-O2"], ["-O2", "-s", "-no-pie"]):
    seed("scan", "c" + "".join(options), program(small, *options))
seed("suppressions", "tsan", "race:foo\nrace_top:^bar$\nmutex:a*b\ndeadlock:x\ncalled_from_lib:libz.so\nsignal:*\nfingerprint:0123456789abcdef # why\n")
seed("config", "all", 'exitcode = 9\nfail-on = ["data-race", "none"]\nhang-after = "5s"\nquiet = true\n[[lock]]\nname = "a::B"\n')
seed("options", "tsan", "halt_on_error=1:exitcode=3 log_path='/a b':history_size=7,fail_on=data-race,deadlock\nhelp=1")
for name in ("report.json", "baseline"):
    path = WORK / name if name == "baseline" else WORK / "out" / name
    seed("report", name, path.read_bytes()[: 1 << 16])
