//! Which file the command names, and whether conprof can check it.

use super::{Refusal, launchers};
use crate::cli::exit;
use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A program that can be started.
#[derive(Debug)]
pub struct Program {
    /// File to execute, as found (not canonical, so that the program sees the name it was called by).
    pub path: PathBuf,
    /// Its contents; `None` where it is started unchecked and can't be read.
    pub image: Option<memmap2::Mmap>,
    /// Why it can't be checked, where `--allow-unchecked` lets it run all the same.
    pub unchecked: Option<Refusal>,
}

/// Finds the program of a command line and looks at it.
pub fn resolve(command: &[OsString], allow_unchecked: bool) -> Result<Program, Refusal> {
    let name =
        command.first().ok_or_else(|| Refusal::new(exit::USAGE, "no program given", "conprof run -- PROGRAM"))?;
    let path = find(name)?;
    let launcher = launchers::suggestion(command).map(|(name, advice)| {
        Refusal::new(
            exit::USAGE,
            format!("`{name}` starts the program as a child, and conprof checks only the process it starts itself"),
            advice,
        )
    });
    let (image, problem) = match launcher {
        Some(refusal) => (None, Some(refusal)),
        None => match examine(&path, command) {
            Ok(image) => (Some(image), None),
            Err(refusal) => (None, Some(refusal)),
        },
    };
    match problem {
        Some(refusal) if !allow_unchecked || refusal.status != exit::USAGE => Err(refusal),
        unchecked => Ok(Program { path, image, unchecked }),
    }
}

/// Becomes the program, unchecked; returns only where that fails.
pub fn replace(command: &[OsString]) -> Refusal {
    use std::os::unix::process::CommandExt as _;
    let Some((name, arguments)) = command.split_first() else {
        return Refusal::new(exit::USAGE, "no program given", "conprof run -- PROGRAM");
    };
    let error = std::process::Command::new(name).args(arguments).exec();
    let status = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
    Refusal::new(status, format!("{} can't be executed: {error}", shown(Path::new(name))), "")
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn find(name: &OsStr) -> Result<PathBuf, Refusal> {
    let as_path = Path::new(name);
    if as_path.components().count() > 1 || name.as_encoded_bytes().contains(&b'/') {
        return check_executable(as_path).map(|()| as_path.to_path_buf());
    }
    let mut denied = None;
    for folder in
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
    {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let candidate = folder.join(name);
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(refusal) if refusal.status == exit::NOT_EXECUTABLE && candidate.is_file() => {
                denied = denied.or(Some(refusal))
            }
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| {
        let nearby = ["", "target/debug/", "target/release/"]
            .iter()
            .map(|folder| format!("./{folder}{}", as_path.display()))
            .find(|candidate| Path::new(candidate).is_file());
        let cure = match nearby {
            Some(candidate) => format!("conprof run -- {candidate}"),
            None => "give the path of a program that is built, such as ./target/debug/<name>".to_string(),
        };
        Refusal::new(exit::NOT_FOUND, format!("there is no program {} in PATH", shown(as_path)), cure)
    }))
}

fn check_executable(path: &Path) -> Result<(), Refusal> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Refusal::new(
            exit::NOT_FOUND,
            format!("there is no file {}", shown(path)),
            "build the program first: cargo build",
        ),
        _ => Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{} can't be reached: {error}", shown(path)),
            "check the permissions of its folders",
        ),
    })?;
    if metadata.is_dir() {
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{} is a folder", shown(path)),
            "name the program file in it",
        ));
    }
    if !crate::os::may_execute(path) || metadata.permissions().mode() & 0o111 == 0 {
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("you have no permission to execute {}", shown(path)),
            format!("chmod +x {}", path.display()),
        ));
    }
    Ok(())
}

/// Maps the file and refuses what conprof can't check. The status is [`exit::USAGE`] where the program could be run
/// unchecked.
fn examine(path: &Path, command: &[OsString]) -> Result<memmap2::Mmap, Refusal> {
    let unchecked = |reason: String, cure: String| Refusal::new(exit::USAGE, reason, cure);
    let name = shown(path);
    let file = File::open(path).map_err(|error| {
        unchecked(
            format!("{name} can be executed but not read ({error}), so it can't be checked"),
            format!("chmod +r {}", path.display()),
        )
    })?;
    let metadata =
        file.metadata().map_err(|error| unchecked(format!("{name} can't be examined: {error}"), String::new()))?;
    let mode = metadata.permissions().mode();
    let image = crate::os::map_file(&file).map_err(|_| {
        Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{name} is not a program file"),
            "name an ELF program built for x86-64 Linux",
        )
    })?;
    if let Some(line) = image.strip_prefix(b"#!") {
        return Err(script(path, line, command));
    }
    if image.get(..4) != Some(b"\x7fELF") {
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{name} is not an ELF program"),
            "name the program file that cargo or the linker wrote, such as ./target/debug/<name>",
        ));
    }
    if image.get(4) != Some(&elf::ELFCLASS64.0) {
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{name} is a 32-bit program; conprof checks x86-64 programs"),
            "cargo build --target x86_64-unknown-linux-gnu",
        ));
    }
    let damaged = |_| Refusal::new(exit::NOT_EXECUTABLE, format!("{name} is a damaged ELF file"), "build it again");
    let header = elf::FileHeader64::<Endianness>::parse(&image[..]).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let machine = header.e_machine(endian);
    if machine != elf::EM_X86_64 {
        let machine = match machine {
            elf::EM_AARCH64 => "AArch64".to_string(),
            elf::EM_RISCV => "RISC-V".to_string(),
            elf::EM_ARM => "ARM".to_string(),
            other => format!("another architecture (ELF machine {})", other.0),
        };
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{name} is built for {machine}; conprof checks x86-64 programs"),
            "cargo build --target x86_64-unknown-linux-gnu",
        ));
    }
    let kind = header.e_type(endian);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(Refusal::new(
            exit::NOT_EXECUTABLE,
            format!("{name} is an object file or a core dump, not a program"),
            "name the linked program",
        ));
    }
    let segments = header.program_headers(endian, &image[..]).map_err(damaged)?;
    let interpreter = segments
        .iter()
        .find(|segment| segment.p_type(endian) == elf::PT_INTERP)
        .and_then(|segment| segment.data(endian, &image[..]).ok())
        .map(|bytes| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string());
    match interpreter {
        None => {
            return Err(unchecked(
                format!("{name} is statically linked, so conprof's runtime can't be loaded into it"),
                "build it dynamically linked: cargo build --target x86_64-unknown-linux-gnu, without `-C target-feature=+crt-static` (or run it unchecked with --allow-unchecked)".to_string(),
            ));
        }
        Some(loader) if loader.contains("musl") => {
            return Err(unchecked(
                format!("{name} is linked against musl, and conprof's runtime needs glibc"),
                "cargo build --target x86_64-unknown-linux-gnu".to_string(),
            ));
        }
        Some(_) => {}
    }
    let user = crate::os::effective_user();
    let gains_user = mode & 0o4000 != 0 && metadata.uid() != user;
    let gains_group = mode & 0o2000 != 0 && user != 0;
    if gains_user || gains_group {
        return Err(unchecked(
            format!(
                "{name} is {}, and the loader ignores preloaded libraries for such programs",
                if gains_user { "setuid" } else { "setgid" }
            ),
            format!(
                "check a copy without the bit: cp {} /tmp/ && conprof run -- /tmp/{}",
                path.display(),
                path.file_name().unwrap_or_default().display()
            ),
        ));
    }
    if user != 0 && crate::os::has_file_capabilities(path) {
        return Err(unchecked(
            format!("{name} has file capabilities, and the loader ignores preloaded libraries for such programs"),
            format!(
                "check a copy without them: cp {} /tmp/ && conprof run -- /tmp/{}",
                path.display(),
                path.file_name().unwrap_or_default().display()
            ),
        ));
    }
    Ok(image)
}

fn script(path: &Path, line: &[u8], command: &[OsString]) -> Refusal {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(&line[..line.len().min(256)]).trim().to_string();
    let interpreter = line.split_whitespace().next().unwrap_or("").to_string();
    let name = Path::new(&interpreter).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments: String = command[1..].iter().map(|a| format!(" {}", a.to_string_lossy())).collect();
    let cure = if matches!(name.as_str(), "sh" | "bash" | "dash" | "zsh" | "ksh" | "fish" | "env")
        && !line.contains("python")
        && !line.contains("node")
    {
        format!("put `conprof run --` before the program that {} starts", path.display())
    } else {
        format!("to check the interpreter itself: conprof run -- {line} {}{arguments}", path.display())
    };
    Refusal::new(exit::USAGE, format!("{} is a script for `{line}`, not an ELF program", shown(path)), cure)
}
