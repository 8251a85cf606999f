//! The launcher's side: gives up rights one layer after the other, then becomes the program.
//!
//! Nothing here can be taken back by the program, and every step that fails ends the launcher.

use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use caps::CapSet;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::close;

use super::{Confinement, Error, Limits, Result, syscalls};

/// The first Landlock (Linux 5.13). What later versions add is covered: truncation by path and
/// device controls by seccomp, renames between directories are always refused in this version.
const LANDLOCK: ABI = ABI::V1;

/// Devices that Python and its libraries open.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

/// Confines this process and becomes `spec.command`.
pub(super) fn exec(spec: &Confinement) -> Result<std::convert::Infallible> {
    let (program, args) = spec.command.split_first().ok_or_else(|| Error::Layer {
        layer: "an empty command",
        source: "expected an interpreter and its arguments".into(),
    })?;
    // The program must not outlive a harness that was killed.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::layer("the parent-death signal"))?;
    close_inherited_files()?;
    drop_capabilities()?;
    prctl::set_no_new_privs().map_err(Error::layer("no_new_privs"))?;
    limit_resources(&spec.limits).map_err(Error::layer("resource limits"))?;
    restrict_files(spec)?;
    syscalls::install()?;
    let source = Command::new(program).args(args).exec();
    Err(Error::Process {
        program: program.clone(),
        source,
    })
}

/// Closes what the harness's own parent left open: Landlock judges opening, not open files.
fn close_inherited_files() -> Result<()> {
    let entries =
        std::fs::read_dir("/proc/self/fd").map_err(Error::layer("the list of open files"))?;
    let open: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|&fd| fd > 2) {
        // Fails for the file that listed the others, which is closed already.
        let _ = close(fd);
    }
    Ok(())
}

/// Leaves root with the rights of its files and no more.
fn drop_capabilities() -> Result<()> {
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(Error::layer("capabilities"))?;
    }
    Ok(())
}

fn limit_resources(limits: &Limits) -> nix::Result<()> {
    let cpu_seconds = limits.cpu.as_millis().div_ceil(1000).max(1) as u64;
    // SIGXCPU at the limit; a program that ignores it is killed a second later.
    setrlimit(Resource::RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, limits.memory_bytes),
        (Resource::RLIMIT_FSIZE, limits.disk_bytes),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

fn restrict_files(spec: &Confinement) -> Result<()> {
    let status = landlock(spec).map_err(Error::layer("Landlock"))?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        return Ok(());
    }
    let source = format!("the kernel reports {:?}", status.ruleset).into();
    Err(Error::Layer {
        layer: "Landlock",
        source,
    })
}

fn landlock(spec: &Confinement) -> std::result::Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::from_read(LANDLOCK);
    let private = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(&spec.readable, read))?
        .add_rules(path_beneath_rules(
            DEVICES,
            AccessFs::ReadFile | AccessFs::WriteFile,
        ))?
        .add_rules(path_beneath_rules([&spec.private_dir], private))?
        .restrict_self()
}
