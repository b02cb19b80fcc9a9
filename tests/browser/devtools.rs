//! A browser without a window, driven through the DevTools protocol over a pair of pipes.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// A page in a browser of its own.
pub struct Page {
    browser: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: String,
    next_id: u64,
    /// What the page wrote to its console or threw, which should be nothing.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The browser to use, if there is one.
pub fn find_browser() -> Option<String> {
    let exists = |name: &&&str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    };
    NAMES.iter().find(exists).map(|name| (*name).to_owned())
}

impl Page {
    /// Opens the report page `file` in `browser`.
    pub fn open(browser: &str, file: &Path) -> Page {
        let loaded = "document.readyState === 'complete' && !!document.getElementById('tabs')?.children.length";
        Page::open_until(browser, file, loaded)
    }

    /// Opens `file` in `browser`, and waits until the expression `loaded` is true.
    pub fn open_until(browser: &str, file: &Path, loaded: &str) -> Page {
        let profile = tempfile::tempdir().expect("a folder");
        // The browser reads commands from descriptor 3 and answers on 4.
        let script = format!(
            "exec {browser} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --disable-extensions --remote-debugging-pipe --window-size=1300,900 --user-data-dir={} \
             3<&0 4>&1 </dev/null >/dev/null 2>&1",
            profile.path().display()
        );
        let mut child = Command::new("timeout")
            .args(["120", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut page = Page {
            browser: child,
            input,
            output,
            session: String::new(),
            next_id: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = page.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        page.call("Runtime.enable", json!({}));
        page.call("Log.enable", json!({}));
        page.call("Page.enable", json!({}));
        page.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        page.wait(loaded);
        page
    }

    /// Calls a method and returns its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next_id += 1;
        let mut message = json!({ "id": self.next_id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).expect("the browser listens");
        loop {
            let mut answer = Vec::new();
            self.output.read_until(0, &mut answer).expect("the browser answers");
            assert_eq!(answer.pop(), Some(0), "the browser ended during {method}");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == self.next_id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            let event = answer["method"].as_str().unwrap_or_default();
            if matches!(event, "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") {
                self.complaints.push(answer["params"].to_string());
            }
        }
    }

    /// The value of an expression.
    pub fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The value of an expression, as text.
    pub fn text(&mut self, expression: &str) -> String {
        self.eval(expression).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        for _ in 0..600 {
            if self.eval(expression) == true {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("`{expression}` does not become true");
    }

    /// Presses a key, as a person does.
    pub fn key(&mut self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            "Tab" => ("", 9),
            "ArrowDown" => ("", 40),
            "ArrowRight" => ("", 39),
            other => (other, 0),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Clicks the middle of the first element that matches.
    pub fn click(&mut self, selector: &str) {
        let query = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let at = self.eval(&query);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Chooses the colour scheme that the system would ask for.
    pub fn scheme(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Keeps a picture for a person to look at, where `CONPROF_SCREENSHOTS` names a folder.
    pub fn screenshot(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("CONPROF_SCREENSHOTS") else { return };
        let data = self.text_of_screenshot();
        let file = Path::new(&dir).join(format!("{name}.png"));
        let decode = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut decode = decode.expect("base64 starts");
        let mut input = decode.stdin.take().expect("a pipe");
        let writer = std::thread::spawn(move || input.write_all(data.as_bytes()));
        let output = decode.wait_with_output().expect("base64 ends");
        writer.join().expect("no panic").expect("base64 reads");
        std::fs::write(file, output.stdout).expect("the picture is kept");
    }

    fn text_of_screenshot(&mut self) -> String {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        answer["data"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // `timeout` hands the signal on to the browser, which ends its own children.
        let _ = Command::new("kill").arg(self.browser.id().to_string()).status();
        let _ = self.browser.wait();
    }
}
