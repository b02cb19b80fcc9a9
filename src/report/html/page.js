"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const headings = new Map(report.kinds.map((kind) => [kind.name, kind]));
  const SVG = "http://www.w3.org/2000/svg";

  // An element with attributes and children; strings become text nodes, never markup.
  function make(name, attributes, ...children) {
    const svg = ["svg", "g", "rect", "line", "path", "text", "circle", "marker", "defs", "title"].includes(name);
    const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value === true) element.setAttribute(key, "");
      else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  function duration(ns) {
    if (ns >= 1e9) return (ns / 1e9).toFixed(2) + " s";
    if (ns >= 1e6) return (ns / 1e6).toFixed(2) + " ms";
    if (ns >= 1e3) return (ns / 1e3).toFixed(1) + " us";
    return ns + " ns";
  }

  const frames = (indices) => (indices || []).map((index) => report.frames[index]);
  const place = (frame) => !frame.file ? frame.function : frame.line ? frame.file + ":" + frame.line : frame.file;
  const isOwn = (frame) => frame.file && frame.line > 0 && !frame.file.startsWith("/usr/") &&
    !["/rustc/", "/.cargo/registry/", "/.cargo/git/", "/registry/src/", "/rustlib/src/"].some((part) => frame.file.includes(part));
  const primary = (list) => list.find(isOwn) || list.find((frame) => frame.line > 0) || list[0];
  const threadName = (thread) => !thread ? "" : thread.serial === 0 ? "main thread"
    : "thread T" + thread.serial + (thread.name ? " '" + thread.name + "'" : "");

  function place_of(finding) {
    for (const stack of finding.stacks) {
      const frame = primary(frames(stack.frames));
      if (frame && frame.line > 0) return place(frame);
    }
    return "";
  }

  function state(finding) {
    if (finding.gating) return ["gates", "gates"];
    if (finding.suppressed) return ["suppressed", "quiet"];
    if (finding.baseline) return ["baseline", "quiet"];
    return [finding.confidence === "possible" ? "possible" : "does not gate", "possible"];
  }

  // ---- Header ----
  function header() {
    const gating = report.findings.filter((finding) => finding.gating).length;
    const verdicts = {
      clean: ["No findings that gate", "good"],
      findings: [gating === 1 ? "1 finding gates" : gating + " findings gate", "gates"],
      incomplete: ["Incomplete: a requested check could not be done", "possible"],
      "internal-error": ["conprof failed", "gates"],
    };
    const [text, kind] = verdicts[report.verdict] || [report.verdict, ""];
    byId("verdict").textContent = text;
    byId("verdict").className = kind;
    const main = report.processes[0];
    const parts = [];
    if (report.command) parts.push(report.command.join(" "));
    else if (main) parts.push(main.program);
    if (report.processes.length > 1) parts.push(report.processes.length + " processes");
    if (main && main.exit && report.processes.length === 1) {
      parts.push("code" in main.exit ? "exit status " + main.exit.code : "killed by signal " + main.exit.signal);
    }
    const total = report.processes.reduce((sum, process) => sum + process.duration_ns, 0);
    if (total) parts.push(duration(total));
    parts.push("conprof " + report.conprof_version);
    byId("run").textContent = parts.join(" · ");
    const warnings = report.coverage.degraded.map((check) => check.check + " not fully checked: " + check.reason + ". " + check.cure);
    if (report.findings_left_out) warnings.push(report.findings_left_out + " more findings are in report.json only; this page would become too large.");
    if (report.sources_left_out) warnings.push(report.sources_left_out + " source excerpts of outer frames are in report.json only.");
    if (report.pictures_left_out) warnings.push(report.pictures_left_out + " large pictures are files beside report.json only.");
    byId("warnings").append(...warnings.map((text) => make("p", {}, text)));
    byId("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
    });
  }

  // ---- Findings ----
  const filter = { text: "", kind: "", state: "open" };
  let selected = null;

  function haystack(finding) {
    if (!finding.words) {
      const stacks = finding.stacks.flatMap((stack) => frames(stack.frames).flatMap((f) => [f.function, f.file, f.module]));
      const locks = finding.stacks.flatMap((stack) => [stack.lock, ...(stack.locks_held || [])]).filter(Boolean).map((lock) => lock.name);
      const memory = finding.location ? [finding.location.name || ""] : [];
      finding.words = [finding.id, finding.title, finding.kind, finding.fix, ...finding.tests, ...stacks, ...locks, ...memory].join("\n").toLowerCase();
    }
    return finding.words;
  }

  function matching() {
    const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    return report.findings.filter((finding) => {
      if (filter.kind && finding.kind !== filter.kind) return false;
      if (filter.state === "open" && (finding.suppressed || finding.baseline)) return false;
      if (filter.state === "gating" && !finding.gating) return false;
      if (filter.state === "accepted" && !finding.suppressed && !finding.baseline) return false;
      return words.every((word) => haystack(finding).includes(word));
    });
  }

  function findingsPanel() {
    const kinds = [...new Set(report.findings.map((finding) => finding.kind))];
    const list = make("ul", { class: "list", id: "list", "aria-label": "Findings" });
    const detail = make("section", { id: "detail", "aria-live": "polite", tabindex: "-1" });
    const count = make("span", { class: "faint", id: "count", role: "status" });
    const refresh = () => {
      const found = matching();
      count.textContent = found.length + " of " + report.findings.length + " findings";
      list.replaceChildren(...found.map((finding) => {
        const [label, kind] = state(finding);
        return make("li", {}, make("button", {
          type: "button", "data-id": finding.id, "aria-current": String(finding === selected),
          onclick: () => { select(finding); },
        }, make("span", { class: "tag " + kind }, label), headings.get(finding.kind)?.heading || finding.kind,
          finding.count > 1 ? make("small", {}, " ×" + finding.count) : null,
          make("div", {}, finding.title), make("small", {}, place_of(finding))));
      }));
      if (!found.length) list.append(make("li", {}, make("p", { class: "faint", style: "padding: 0 0.7rem" },
        report.findings.length ? "Nothing matches the filters." : "No findings.")));
      if (!found.includes(selected)) show(found[0] || null);
      else show(selected);
    };
    const show = (finding) => {
      selected = finding;
      for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(finding && button.dataset.id === finding.id));
      detail.replaceChildren(...(finding ? details(finding) : []));
    };
    const select = (finding) => {
      show(finding);
      history.replaceState(null, "", "#" + finding.id);
    };
    list.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
      if (!step) return;
      const buttons = [...list.querySelectorAll("button")];
      const next = buttons[buttons.indexOf(document.activeElement) + step];
      if (next) { next.focus(); next.click(); }
      event.preventDefault();
    });
    const option = (value, text, now) => make("option", { value, selected: value === now }, text);
    const filters = make("div", { class: "filters", role: "search" },
      make("label", {}, "Search", make("input", { type: "search", id: "search", value: filter.text, placeholder: "function, file, lock, test ... ( / )", oninput: (event) => { filter.text = event.target.value; refresh(); } })),
      make("label", {}, "Kind", make("select", { id: "kind", onchange: (event) => { filter.kind = event.target.value; refresh(); } },
        option("", "all", filter.kind), kinds.map((kind) => option(kind, headings.get(kind)?.heading || kind, filter.kind)))),
      make("label", {}, "State", make("select", { id: "state", onchange: (event) => { filter.state = event.target.value; refresh(); } },
        option("open", "open", filter.state), option("gating", "gates", filter.state), option("accepted", "suppressed or baseline", filter.state), option("all", "all", filter.state))),
      count);
    const wanted = report.findings.find((finding) => location.hash.length > 4 && finding.id.startsWith(location.hash.slice(1)));
    if (wanted) { filter.state = "all"; filters.querySelector("#state").value = "all"; selected = wanted; }
    refresh();
    const gone = report.baseline_gone.length
      ? [make("h3", {}, "In the baseline, not found this time"), make("ul", {}, report.baseline_gone.map((line) => make("li", {}, line)))] : [];
    return [filters, make("div", { class: "findings" }, list, detail), ...gone];
  }

  function source(frame) {
    const excerpt = frame.source === undefined ? null : report.sources[frame.source];
    if (!excerpt) return null;
    const width = String(excerpt.first_line + excerpt.lines.length).length;
    return make("pre", { tabindex: "0", "aria-label": "source of " + place(frame) }, excerpt.lines.map((line, index) => {
      const number = excerpt.first_line + index;
      return make("span", { class: number === frame.line ? "hit" : "" }, String(number).padStart(width) + "  " + line);
    }));
  }

  function stackList(list, open) {
    const first = open ? primary(list) : null;
    return make("ol", { start: "0" }, list.map((frame) => {
      const code = source(frame);
      const line = [make("code", {}, frame.function), frame.inlined ? make("span", { class: "faint" }, " (inlined)") : null,
        make("br"), make("small", { title: frame.module + "+0x" + frame.module_offset.toString(16) }, place(frame))];
      const body = code ? make("details", { open: frame === first }, make("summary", {}, line), code) : line;
      return make("li", { class: isOwn(frame) ? "" : "foreign" }, body);
    }));
  }

  function side(stack) {
    const bytes = stack.size ? " of " + stack.size + (stack.size === 1 ? " byte" : " bytes") : "";
    const declared = (lock) => lock.name + (lock.type ? ": " + lock.type : "");
    const lock = stack.lock ? " " + declared(stack.lock) : "";
    const title = stack.role.replaceAll("-", " ") + bytes + lock + (stack.thread ? " by " + threadName(stack.thread) : "");
    const list = frames(stack.frames);
    const created = stack.thread ? frames(stack.thread.created_at) : [];
    const held = (stack.locks_held || []).map((held) => make("details", {},
      make("summary", {}, "holds " + declared(held) + (held.mode === "shared" ? " (shared)" : "")), stackList(frames(held.acquired), false)));
    return make("div", { class: "side" }, make("h3", {}, title),
      list.length ? stackList(list, true) : make("p", { class: "faint" }, "No stack: " + (stack.lost || "not recorded")),
      held, stack.locks_held && !stack.locks_held.length && stack.size ? make("p", { class: "faint" }, "holds no lock") : null,
      created.length ? make("details", {}, make("summary", {}, threadName(stack.thread) + " was created here"), stackList(created, false)) : null);
  }

  function memory(location) {
    if (!location) return [];
    const thread = (serial) => serial === 0 ? "main thread" : "thread T" + serial;
    const texts = {
      global: () => "static " + location.name + " of " + location.size + " bytes, offset " + location.offset + (location.file ? ", declared at " + location.file + ":" + location.line : ""),
      heap: () => "offset " + location.offset + " in a heap block of " + location.size + " bytes, allocated by " + thread(location.thread),
      stack: () => "the stack of " + thread(location.thread),
      unknown: () => "address " + location.address,
    };
    const stack = location.frames && location.frames.length
      ? make("details", {}, make("summary", {}, "Memory: " + texts[location.kind]()), stackList(frames(location.frames), false))
      : make("p", {}, "Memory: " + (texts[location.kind] || texts.unknown)());
    return [stack];
  }

  function copyable(label, text) {
    const button = make("button", { type: "button", onclick: () => navigator.clipboard?.writeText(text).then(() => { button.textContent = "Copied"; }) }, "Copy");
    return [make("h3", {}, label), make("div", { class: "copy" }, make("pre", { class: "command", tabindex: "0" }, text), button)];
  }

  const quote = (word) => /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'";

  function details(finding) {
    const [label, kind] = state(finding);
    const seen = finding.seen_in.n > 1 ? "seen in " + finding.seen_in.k + " of " + finding.seen_in.n + " runs" : null;
    const facts = [finding.confidence, finding.count > 1 ? finding.count + " occurrences" : null, seen, "id " + finding.id].filter(Boolean);
    const isSide = (stack) => stack.role !== "allocated" && stack.role !== "created";
    const waits = finding.waits_for || [];
    return [
      make("h2", {}, finding.title),
      make("p", {}, make("span", { class: "tag " + kind }, label), make("span", { class: "faint" }, facts.join(" · "))),
      make("p", { class: "faint" }, headings.get(finding.kind)?.meaning || ""),
      finding.fix ? make("p", { class: "fix" }, finding.fix) : null,
      (finding.notes || []).map((note) => make("p", {}, note)),
      memory(finding.location),
      waits.length ? make("ul", {}, waits.map((edge) => make("li", {}, edge.thread + " waits for " + edge.lock + ", which " + edge.holder + " holds"))) : null,
      make("div", { class: "sides" }, finding.stacks.filter(isSide).map(side)),
      finding.stacks.filter((stack) => !isSide(stack)).map(side),
      finding.tests.length ? [make("h3", {}, "Seen in tests"), make("ul", {}, finding.tests.map((test) => make("li", {}, test)))] : null,
      report.command ? copyable("Run it again", "conprof run -- " + report.command.map(quote).join(" ")) : null,
      copyable("Suppress it (a line for your suppressions file)", finding.suppress),
    ].flat(Infinity).filter(Boolean);
  }

  // ---- Locks ----
  const columns = [
    ["name", "Lock", false], ["kind", "Kind", false], ["acquisitions", "Acquisitions", true], ["contended", "Contended", true],
    ["wait_ns", "Total wait", true], ["max_wait_ns", "Longest wait", true], ["p99_wait_ns", "99 % wait", true], ["hold", "Mean hold", true],
  ];
  const sorting = { key: "wait_ns", descending: true };
  const lockValue = (lock, key) => key === "hold" ? (lock.hold_samples ? lock.hold_ns / lock.hold_samples : 0) : lock[key];

  function locksPanel() {
    const body = make("tbody");
    const heads = columns.map(([key, title, number]) => make("th", { class: number ? "number" : "", scope: "col" },
      make("button", { type: "button", "data-key": key, onclick: () => {
        if (sorting.key === key) sorting.descending = !sorting.descending;
        else { sorting.key = key; sorting.descending = number; }
        fill();
      } }, title)));
    const fill = () => {
      const rows = [...report.locks].sort((a, b) => {
        const [x, y] = [lockValue(a, sorting.key), lockValue(b, sorting.key)];
        const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
        return sorting.descending ? -order : order;
      });
      heads.forEach((head, index) => head.setAttribute("aria-sort", columns[index][0] !== sorting.key ? "none" : sorting.descending ? "descending" : "ascending"));
      body.replaceChildren(...rows.map((lock) => make("tr", {}, columns.map(([key, , number]) => {
        const value = lockValue(lock, key);
        const text = key.endsWith("_ns") || key === "hold" ? (key === "hold" && !lock.hold_samples ? "" : duration(Math.round(value))) : number ? value.toLocaleString("en") : value;
        return make("td", { class: number ? "number" : "" }, text);
      }))));
    };
    fill();
    if (!report.locks.length) return [make("p", { class: "faint" }, "No lock was seen, or locks were not among the checks.")];
    return [make("div", { class: "scroll" }, make("table", { id: "locks" }, make("thead", {}, make("tr", {}, heads)), body))];
  }

  // ---- Lock order ----
  function reachable(edges, from, to) {
    const seen = new Set([from]);
    const queue = [from];
    while (queue.length) {
      const at = queue.pop();
      if (at === to) return true;
      for (const edge of edges) if (edge.from === at && !seen.has(edge.to)) { seen.add(edge.to); queue.push(edge.to); }
    }
    return false;
  }

  function orderPanel() {
    const edges = report.lock_order;
    if (!edges.length) return [make("p", { class: "faint" }, "No thread took a lock while it held another one.")];
    const marked = edges.map((edge) => ({ ...edge, cycle: reachable(edges, edge.to, edge.from) }));
    marked.sort((a, b) => Number(b.cycle) - Number(a.cycle) || b.count - a.count);
    const shown = marked.slice(0, 60);
    const names = [...new Set(shown.flatMap((edge) => [edge.from, edge.to]))];
    const radius = Math.max(110, names.length * 26);
    const [width, height] = [2 * radius + 460, 2 * radius + 90];
    const at = new Map(names.map((name, index) => {
      const angle = (2 * Math.PI * index) / names.length - Math.PI / 2;
      return [name, [width / 2 + radius * Math.cos(angle), height / 2 + radius * Math.sin(angle)]];
    }));
    const marker = (id, kind) => make("marker", { id, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 8, markerHeight: 8, orient: "auto", markerUnits: "userSpaceOnUse" }, make("path", { d: "M0 0 L10 5 L0 10 z", class: kind }));
    const svg = make("svg", { width, height, role: "img", id: "order", "aria-label": "Lock-order graph" }, make("defs", {}, marker("a", "arrow"), marker("ac", "arrow-cycle")));
    for (const edge of shown) {
      const [[x1, y1], [x2, y2]] = [at.get(edge.from), at.get(edge.to)];
      const length = Math.hypot(x2 - x1, y2 - y1) || 1;
      const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
      const [mx, my] = [(x1 + x2) / 2 - uy * 28, (y1 + y2) / 2 + ux * 28];
      const end = Math.hypot(x2 - mx, y2 - my);
      const [ex, ey] = [x2 - ((x2 - mx) / end) * 11, y2 - ((y2 - my) / end) * 11];
      svg.append(make("path", { d: `M${x1} ${y1} Q${mx} ${my} ${ex} ${ey}`, class: "edge" + (edge.cycle ? " cycle" : ""), "marker-end": edge.cycle ? "url(#ac)" : "url(#a)" },
        make("title", {}, edge.from + " was held while " + edge.to + " was taken, " + edge.count + " times")));
    }
    for (const [name, [x, y]] of at) {
      const right = x >= width / 2 - 1;
      svg.append(make("circle", { cx: x, cy: y, r: 8, class: "node" }), make("text", { x: x + (right ? 14 : -14), y: y + 4, "text-anchor": right ? "start" : "end" }, name.length > 40 ? "…" + name.slice(-39) : name));
    }
    const rows = marked.map((edge) => make("tr", {}, make("td", {}, edge.from), make("td", {}, edge.to), make("td", { class: "number" }, String(edge.count)), make("td", { class: edge.cycle ? "gates" : "" }, edge.cycle ? "in a cycle" : "")));
    return [make("p", {}, "An arrow from A to B: B was taken while A was held. Red arrows are part of a cycle, which could deadlock."),
      make("div", { class: "scroll" }, svg),
      make("table", {}, make("thead", {}, make("tr", {}, ["Held", "Taken", "Times", ""].map((text) => make("th", { scope: "col", class: text === "Times" ? "number" : "" }, text)))), make("tbody", {}, rows))];
  }

  // ---- Threads ----
  function threadsPanel() {
    const threads = report.threads.slice(0, 400);
    if (!threads.length) return [make("p", { class: "faint" }, "Threads are listed in the reports of the single processes.")];
    const timed = threads.filter((thread) => thread.start_ns !== undefined && thread.start_ns !== null);
    const spans = report.timeline || [];
    const end = Math.max(1, ...timed.map((thread) => thread.end_ns || 0), ...spans.map((span) => span.end_ns), report.processes[0]?.duration_ns || 0);
    const parts = [];
    if (timed.length || spans.length) {
      const [left, width, row] = [230, 1000, 20];
      const x = (ns) => left + (ns / end) * width;
      const svg = make("svg", { width: left + width + 20, height: threads.length * row + 30, role: "img", id: "timeline", "aria-label": "Thread timeline" });
      threads.forEach((thread, index) => {
        const y = index * row + 4;
        const from = thread.start_ns ?? 0;
        const to = thread.end_ns ?? end;
        svg.append(make("text", { x: left - 8, y: y + 11, "text-anchor": "end" }, threadName(thread).slice(0, 32)),
          make("rect", { x: x(from), y: y + 3, width: Math.max(1, x(to) - x(from)), height: 9, class: "alive" }, make("title", {}, threadName(thread) + ": " + duration(to - from))));
        for (const span of spans.filter((span) => span.thread === thread.serial)) {
          const kind = span.what === "wait" || span.what === "hold" ? span.what : "other";
          svg.append(make("rect", { x: x(span.start_ns), y, width: Math.max(1, x(span.end_ns) - x(span.start_ns)), height: 15, class: kind },
            make("title", {}, span.what + (span.lock ? " " + span.lock : "") + ": " + duration(span.end_ns - span.start_ns))));
        }
      });
      svg.append(make("text", { x: left, y: threads.length * row + 22 }, "0"), make("text", { x: left + width, y: threads.length * row + 22, "text-anchor": "end" }, duration(end)));
      const key = (name, text) => make("span", {}, make("i", { style: `background: var(--${name})` }), text);
      parts.push(make("p", { class: "legend" }, key("run", "alive"), key("wait", "waits for a lock"), key("hold", "holds a lock")), make("div", { class: "scroll" }, svg));
    }
    const rows = threads.map((thread) => {
      const created = frames(thread.created_at);
      const at = created.length ? make("details", {}, make("summary", {}, place(primary(created))), stackList(created, false)) : "";
      const creator = thread.created_by === undefined || thread.created_by === null ? "" : thread.created_by === 0 ? "main thread" : "T" + thread.created_by;
      return make("tr", {}, make("td", {}, "T" + thread.serial), make("td", {}, thread.name), make("td", { class: "number" }, String(thread.tid)), make("td", {}, thread.running ? "running" : "finished"), make("td", {}, creator), make("td", {}, at));
    });
    parts.push(make("table", { id: "threads" }, make("thead", {}, make("tr", {}, ["", "Name", "tid", "State", "Created by", "Created at"].map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, rows)));
    if (report.threads.length > threads.length) parts.push(make("p", { class: "faint" }, report.threads.length - threads.length + " more threads are in report.json."));
    return parts;
  }

  // ---- Pictures ----
  function picturesPanel() {
    return report.pictures.map((picture) => {
      const frame = make("iframe", { title: picture.title });
      frame.src = URL.createObjectURL(new Blob([picture.svg], { type: "image/svg+xml" }));
      return make("section", {}, make("h2", {}, picture.title), frame);
    });
  }

  // ---- Coverage ----
  function coveragePanel() {
    const coverage = report.coverage;
    const sum = (map) => Object.values(map).reduce((total, count) => total + count, 0);
    const list = (map) => Object.entries(map).map(([name, count]) => name + ": " + count.toLocaleString("en")).join(", ");
    const rows = coverage.modules.map((module) => make("tr", {}, make("td", {}, module.path), make("td", {}, module.debuginfo), make("td", { class: "number" }, module.instrumented.toLocaleString("en")), make("td", { class: "number" }, sum(module.skipped_by_reason).toLocaleString("en")), make("td", {}, list(module.skipped_by_reason)), make("td", {}, list(module.accesses_by_class))));
    const parts = [make("h2", {}, "What was seen"), make("table", { id: "modules" }, make("thead", {}, make("tr", {}, ["Module", "Debuginfo", "Checked", "Skipped", "Why", "Accesses"].map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, rows))];
    const facts = [];
    if (coverage.dropped_events) facts.push(coverage.dropped_events.toLocaleString("en") + " events did not fit into the recording.");
    if (coverage.perf && !coverage.perf.available && coverage.perf.reason) facts.push("No perf sampling: " + coverage.perf.reason + ". " + (coverage.perf.cure || ""));
    for (const check of coverage.degraded) facts.push(check.check + ": " + check.reason + ". " + check.cure);
    for (const [name, value] of Object.entries(report.counters || {})) facts.push(name + ": " + value.toLocaleString("en"));
    if (facts.length) parts.push(make("h2", {}, "Limits and counts of this run"), make("ul", {}, facts.map((fact) => make("li", {}, fact))));
    if (report.suppressions.length) {
      parts.push(make("h2", {}, "Suppressions"), make("ul", {}, report.suppressions.map((used) => make("li", {}, make("code", {}, used.line), used.hits ? " matched " + used.hits : " never matched"))));
    }
    const processes = report.processes.map((process) => make("tr", {}, make("td", {}, process.program), make("td", { class: "number" }, String(process.pid)), make("td", {}, process.exit ? ("code" in process.exit ? "status " + process.exit.code : "signal " + process.exit.signal) : "running"), make("td", { class: "number" }, duration(process.duration_ns))));
    parts.push(make("h2", {}, "Processes"), make("table", {}, make("thead", {}, make("tr", {}, ["Program", "pid", "End", "Time"].map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, processes)));
    return parts;
  }

  // ---- Tabs ----
  const panels = [["findings", "Findings (" + report.findings.length + ")", findingsPanel], ["locks", "Locks (" + report.locks.length + ")", locksPanel],
    ["order", "Lock order", orderPanel], ["threads", "Threads (" + report.threads.length + ")", threadsPanel]];
  if (report.pictures.length) panels.push(["pictures", "Flame graphs", picturesPanel]);
  panels.push(["coverage", "Coverage and limits", coveragePanel]);

  function open(name) {
    for (const tab of byId("tabs").children) {
      const now = tab.dataset.panel === name;
      tab.setAttribute("aria-selected", String(now));
      tab.tabIndex = now ? 0 : -1;
    }
    const panel = panels.find((panel) => panel[0] === name) || panels[0];
    byId("main").replaceChildren(make("div", { role: "tabpanel", "aria-labelledby": "tab-" + panel[0] }, panel[2]()));
  }

  header();
  byId("tabs").append(...panels.map(([name, title]) => make("button", { type: "button", role: "tab", id: "tab-" + name, "data-panel": name, onclick: () => open(name) }, title)));
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tabs = [...byId("tabs").children];
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    open(next.dataset.panel);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    if (!byId("search")) open("findings");
    byId("search").focus();
  });
  open("findings");
})();
