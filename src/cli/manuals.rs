//! `conprof completions SHELL` and `conprof man`: generated from the command line's definition.

use super::outputs::print;
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Arguments of `conprof completions`.
#[derive(Debug, Args)]
pub struct CompletionsOptions {
    /// Which shell
    pub shell: Shell,
}

/// Arguments of `conprof man`.
#[derive(Debug, Args)]
pub struct ManOptions {
    /// Write one page per subcommand into DIR instead of the main page to stdout
    pub dir: Option<PathBuf>,
}

/// Writes the completion script of a shell to stdout.
pub fn completions(options: &CompletionsOptions, mut command: Command) -> anyhow::Result<i32> {
    let mut text = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(options.shell, &mut command, name, &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes man pages.
pub fn man(options: &ManOptions, mut command: Command) -> anyhow::Result<i32> {
    command.build();
    let Some(dir) = &options.dir else {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        return print(&String::from_utf8_lossy(&text));
    };
    std::fs::create_dir_all(dir)?;
    pages(dir, command, "conprof")?;
    Ok(0)
}

fn pages(dir: &Path, command: Command, name: &str) -> anyhow::Result<()> {
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        pages(dir, subcommand.clone(), &format!("{name}-{}", subcommand.get_name()))?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command.name(name.to_owned())).render(&mut text)?;
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    Ok(())
}
