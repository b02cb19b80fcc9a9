//! report.html in a real browser: clicking, searching, sorting, keys, light and dark, size.
//!
//! Without a browser (Debian: `apt-get install chromium`) the tests say that they are skipped; with
//! `CONPROF_REQUIRE_BROWSER=1` they fail instead.

mod devtools;
#[path = "../formats/sample.rs"]
#[allow(dead_code)]
mod sample;

use conprof::report::html::{self, Picture};
use conprof::report::{LockOrder, Report, Span};
use devtools::Page;
use std::path::PathBuf;

fn page(report: &Report, pictures: &[Picture]) -> Option<(Page, tempfile::TempDir)> {
    let Some(browser) = devtools::find_browser() else {
        assert!(std::env::var_os("CONPROF_REQUIRE_BROWSER").is_none(), "no browser; install chromium");
        eprintln!("SKIPPED: report.html is not tested, as there is no browser; install chromium");
        return None;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file: PathBuf = dir.path().join("report.html");
    std::fs::write(&file, html::render(report, pictures, "conprof-out/latest")).expect("the page is written");
    Some((Page::open(&browser, &file), dir))
}

fn full_report() -> Report {
    let mut report = sample::everything();
    report.timeline = vec![
        Span {
            thread: 1,
            start_ns: 300_000_000,
            end_ns: 600_000_000,
            what: "wait".to_owned(),
            lock: "app::A".to_owned(),
        },
        Span {
            thread: 2,
            start_ns: 200_000_000,
            end_ns: 610_000_000,
            what: "hold".to_owned(),
            lock: "app::A".to_owned(),
        },
    ];
    report.lock_order = vec![LockOrder { from: "app::B".to_owned(), to: "app::LOG".to_owned(), count: 7 }];
    report
}

const LIST: &str = "document.querySelectorAll('#list button').length";
const TITLE: &str = "document.querySelector('#detail h2')?.textContent";

#[test]
fn a_person_can_click_search_and_filter() {
    let Some((mut page, _dir)) = page(&full_report(), &[]) else { return };
    assert_eq!(page.text("document.getElementById('verdict').textContent"), "3 findings gate");
    assert_eq!(page.eval(LIST), 4);
    assert!(page.text(TITLE).contains("Cache::put"));
    page.screenshot("findings-light");
    page.click(&format!("[data-id='{}']", sample::DEADLOCK));
    assert_eq!(page.text(TITLE), "T1 and T2 wait for each other");
    assert_eq!(page.text("location.hash"), format!("#{}", sample::DEADLOCK));
    assert!(page.text("document.getElementById('detail').innerText").contains("T1 waits for app::B, which T2 holds"));
    page.click("#search");
    for letter in "FLAGS.RS".chars() {
        page.key(&letter.to_string());
    }
    assert_eq!(page.eval(LIST), 1);
    assert!(page.text(TITLE).contains("FLAG"));
    assert!(page.text("document.getElementById('detail').innerText").contains("older than the history kept"));
    page.eval(
        "(() => { const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input')); })()",
    );
    page.eval("(() => { const s = document.getElementById('kind'); s.value = 'data-race'; s.dispatchEvent(new Event('change')); })()");
    assert_eq!(page.eval(LIST), 2);
    page.eval("(() => { const s = document.getElementById('state'); s.value = 'gating'; s.dispatchEvent(new Event('change')); })()");
    assert_eq!(page.eval(LIST), 1);
    let text = page.text("document.getElementById('detail').innerText");
    for part in [
        "conprof run -- ./target/debug/app --port 80",
        "fingerprint:00112233445566aa #",
        "line_42(); // </script>",
        "holds app::STATS",
    ] {
        assert!(text.contains(part), "`{part}` is missing in {text}");
    }
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
fn the_lock_table_sorts_and_the_graph_is_drawn() {
    let Some((mut page, _dir)) = page(&full_report(), &[]) else { return };
    page.click("#tab-locks");
    let first = "document.querySelector('#locks tbody td').textContent";
    assert_eq!(page.text(first), "app::A", "by total wait");
    page.click("#locks [data-key='acquisitions']");
    assert_eq!(page.text(first), "app::B");
    assert_eq!(page.text("document.querySelector('#locks [aria-sort=descending] button').textContent"), "Acquisitions");
    page.click("#locks [data-key='acquisitions']");
    assert_eq!(page.text(first), "app::A");
    page.screenshot("locks");
    page.click("#tab-order");
    assert_eq!(page.eval("document.querySelectorAll('#order .edge').length"), 3);
    assert_eq!(page.eval("document.querySelectorAll('#order .cycle').length"), 2);
    page.screenshot("order");
    page.click("#tab-threads");
    assert_eq!(page.eval("document.querySelectorAll('#timeline .alive').length"), 3);
    assert_eq!(page.eval("document.querySelectorAll('#timeline .wait').length"), 1);
    assert_eq!(page.eval("document.querySelectorAll('#threads tbody > tr').length"), 3);
    page.screenshot("threads");
    page.click("#tab-coverage");
    assert!(page.text("document.getElementById('main').innerText").contains("too short to patch"));
    page.screenshot("coverage");
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
fn everything_is_reachable_by_keys() {
    let Some((mut page, _dir)) = page(&full_report(), &[]) else { return };
    page.key("/");
    assert_eq!(page.text("document.activeElement.id"), "search");
    let mut reached = Vec::new();
    for _ in 0..12 {
        page.key("Tab");
        reached.push(
            page.text(
                "document.activeElement.id || document.activeElement.dataset.id || document.activeElement.tagName",
            ),
        );
    }
    for wanted in ["kind", "state", sample::RACE, sample::POSSIBLE, "SUMMARY"] {
        assert!(reached.iter().any(|name| name == wanted), "Tab does not reach {wanted}: {reached:?}");
    }
    page.eval(&format!("document.querySelector(\"[data-id='{}']\").focus()", sample::RACE));
    page.key("ArrowDown");
    assert_eq!(page.text(TITLE), "T1 and T2 wait for each other");
    page.eval("document.getElementById('tab-findings').focus()");
    page.key("ArrowRight");
    assert_eq!(page.text("document.activeElement.id"), "tab-locks");
    assert_eq!(page.eval("!!document.getElementById('locks')"), true);
    let loose = "[...document.querySelectorAll('[onclick]')].length";
    assert_eq!(page.eval(loose), 0);
}

#[test]
fn light_and_dark_are_both_readable() {
    let Some((mut page, _dir)) = page(&full_report(), &[]) else { return };
    // Relative luminance and contrast as WCAG 2 defines them, over all visible text.
    let worst = "(() => {
      const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const parse = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
      const paper = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
      let worst = 99;
      for (const e of document.querySelectorAll('body *')) {
        if (!e.innerText || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
        if (['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(paper(e))];
        worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
      }
      return worst; })()";
    let background = "getComputedStyle(document.body).backgroundColor";
    page.scheme("light");
    assert_eq!(page.text(background), "rgb(255, 255, 255)");
    let light = page.eval(worst).as_f64().expect("a number");
    page.scheme("dark");
    assert_eq!(page.text(background), "rgb(20, 24, 29)");
    let dark = page.eval(worst).as_f64().expect("a number");
    assert!(light >= 4.5 && dark >= 4.5, "contrast {light} in light, {dark} in dark");
    page.screenshot("findings-dark");
    page.click("#tab-order");
    page.screenshot("order-dark");
    page.click("#theme");
    assert_eq!(page.text(background), "rgb(255, 255, 255)", "the button overrules the system");
}

#[test]
fn a_thousand_findings_stay_below_ten_megabytes() {
    let report = sample::many(1_000, 40);
    let text = html::render(&report, &[], "results");
    assert!(text.len() <= 10_000_000, "{} bytes", text.len());
    let Some((mut page, _dir)) = page(&report, &[]) else { return };
    assert_eq!(page.eval(LIST), 1_000);
    page.eval("(() => { const s = document.getElementById('search'); s.value = 'number 777'; s.dispatchEvent(new Event('input')); })()");
    assert_eq!(page.eval(LIST), 1);
    let left_out = html::render(&sample::many(9_000, 60), &[], "results");
    assert!(left_out.len() <= 10_000_000, "{} bytes", left_out.len());
}

#[test]
fn pictures_stand_inside_the_page() {
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"60\"><rect width=\"900\" height=\"60\" \
               fill=\"#fa0\"/><text x=\"9\" y=\"40\">wait</text>\
               <script>parent.postMessage(document.querySelector('text').textContent, '*')</script></svg>";
    let picture = Picture { title: "Waiting".to_owned(), svg: svg.to_owned() };
    let Some((mut page, _dir)) = page(&full_report(), &[picture]) else { return };
    page.eval("addEventListener('message', (event) => { window.told = event.data; })");
    page.click("#tab-pictures");
    page.wait("window.told === 'wait'");
    page.screenshot("pictures");
    assert_eq!(page.complaints, Vec::<String>::new());
}
