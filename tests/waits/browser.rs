//! contention.svg in a real browser: it draws, a click zooms, the search finds, and nothing complains.

#[path = "../browser/devtools.rs"]
#[allow(dead_code)]
mod devtools;

use crate::program::{Run, fixture};
use devtools::Page;

#[test]
fn contention_svg_works_in_a_browser() {
    let Some(browser) = devtools::find_browser() else {
        assert!(std::env::var_os("CONPROF_REQUIRE_BROWSER").is_none(), "no browser; install chromium");
        eprintln!("SKIPPED: contention.svg is not tested in a browser, as there is none; install chromium");
        return;
    };
    let run = Run::new(&[], &fixture("hog"));
    let loaded = "document.readyState === 'complete' && !!document.getElementById('frames')";
    for name in ["contention", "blame", "idle", "offcpu"] {
        let mut page = Page::open_until(&browser, &run.file(&format!("{name}.svg")), loaded);
        let frames = page.eval("document.querySelectorAll('#frames g').length");
        assert!(frames.as_u64() > Some(3), "{name}: {frames} frames");
        if name == "contention" {
            page.eval("search('light')");
            assert!(page.text("document.getElementById('matched').textContent").contains('%'));
            page.eval("reset_search()");
            page.screenshot("contention");
        }
        assert!(page.complaints.is_empty(), "{name}: {:?}", page.complaints);
    }
}

#[test]
fn the_page_of_a_run_shows_its_waits_without_complaints() {
    let Some(browser) = devtools::find_browser() else {
        assert!(std::env::var_os("CONPROF_REQUIRE_BROWSER").is_none(), "no browser; install chromium");
        eprintln!("SKIPPED: the page of a run is not tested, as there is no browser; install chromium");
        return;
    };
    let run = Run::new(&["--checks", "contention"], &fixture("hog"));
    let mut page = Page::open(&browser, &run.file("report.html"));
    page.click("#tab-locks");
    assert!(page.text("document.querySelector('#locks tbody tr').textContent").contains("std::sync::Mutex"));
    page.click("#tab-threads");
    assert!(page.eval("document.querySelectorAll('#timeline .wait').length").as_u64() > Some(10));
    assert_eq!(page.complaints, Vec::<String>::new());
}
