//! Starts the program under conprof and stays with it until it ends.
//!
//! ```text
//! command --program--> file that can be checked, or a Refusal that names the cure
//! file --plan_cache--> plan (scanned once per build id)
//! DIR --out_dir, recording--> empty recording
//! plan + recording + shim --environment--> the started program
//! program --supervise--> how it ended; findings as they appear; signals passed on
//! ```

mod cache_limit;
mod environment;
mod launchers;
mod out_dir;
mod plan_cache;
mod plan_file;
mod planner;
mod program;
mod recording;
mod refusal;
mod supervise;
mod tasks;

pub use environment::{Prepared, has_shim, prepare, shim_image};
pub use out_dir::OutDir;
pub use plan_cache::{AboutModule, LockRows, Planned, Progress, obtain_plan, read_entry};
pub use plan_file::PlanFile;
pub use program::{Program, replace, resolve};
pub use recording::{RecordingOptions, create_recording, trim_recording};
pub use refusal::Refusal;
pub use supervise::{Observer, Outcome, SuperviseOptions, supervise};
pub use tasks::tasks;
