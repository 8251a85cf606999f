//! The system calls a single Python process needs, and no others.
//!
//! An allow-list: what is not named fails with EPERM, which Python raises as `PermissionError`.
//! Left out on purpose: sockets of any kind, new processes, ptrace and other processes' memory,
//! mounts, namespaces, io_uring, keys, bpf, modes, owners and times of files, links.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, Result as FilterResult, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Error, Result};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are harmless with any argument, given the other layers.
#[rustfmt::skip] // grouped, not one a line
const ALLOWED: &[c_long] = &[
    // memory
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_membarrier,
    // open files
    SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev,
    SYS_lseek, SYS_close, SYS_close_range, SYS_dup, SYS_dup3, SYS_fstat, SYS_fstatfs, SYS_fsync,
    SYS_fdatasync, SYS_ftruncate, SYS_fallocate, SYS_fadvise64, SYS_flock, SYS_sendfile,
    SYS_copy_file_range, SYS_getdents64, SYS_pipe2, SYS_eventfd2,
    // paths, which Landlock judges
    SYS_openat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_faccessat, SYS_faccessat2,
    SYS_readlinkat, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_mkdirat, SYS_unlinkat, SYS_renameat,
    SYS_renameat2, SYS_umask, SYS_execve,
    // waiting and time
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_nanosleep,
    SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_setitimer,
    SYS_getitimer, SYS_times, SYS_getrusage, SYS_wait4, SYS_waitid, SYS_restart_syscall,
    // signals to oneself, threads
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_futex, SYS_set_robust_list, SYS_set_tid_address,
    SYS_rseq, SYS_sched_yield, SYS_sched_getaffinity, SYS_exit, SYS_exit_group,
    // answered by `no_clone3`, whose errno would be overruled by a refusal here
    SYS_clone3,
    // who and where am I
    SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgid, SYS_getsid, SYS_getuid, SYS_geteuid,
    SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid, SYS_getresgid, SYS_uname, SYS_sysinfo,
    SYS_getcpu, SYS_getrandom, SYS_getpriority,
];

/// The older names of some of these calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip] // grouped, not one a line
const ALLOWED_OLDER: &[c_long] = &[
    SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_unlink,
    SYS_rename, SYS_getdents, SYS_pipe, SYS_dup2, SYS_poll, SYS_select, SYS_epoll_create,
    SYS_epoll_wait, SYS_eventfd, SYS_alarm, SYS_pause, SYS_time, SYS_getpgrp, SYS_getrlimit,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLDER: &[c_long] = &[];

/// What Python asks of files with `ioctl`: is it a terminal, how much is there, close on exec.
const ALLOWED_IOCTLS: [Ioctl; 5] = [TCGETS, TIOCGWINSZ, FIONREAD, FIOCLEX, FIONCLEX];

/// What Python asks of files with `fcntl`. Not F_SETOWN: with F_SETSIG it sends signals to others.
const ALLOWED_FCNTLS: [c_int; 9] = [
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_SETFL,
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETLK,
    F_SETLK,
    F_SETLKW,
];

/// Puts the filters over this thread and all that it becomes.
pub(super) fn install() -> Result<()> {
    for filter in [no_clone3, allow_list] {
        let program = filter().map_err(Error::layer("seccomp"))?;
        apply_filter(&program).map_err(Error::layer("seccomp"))?;
    }
    Ok(())
}

/// Answers `clone3` with ENOSYS: its flags lie in memory, out of a filter's sight, and on this
/// answer the C library makes threads with `clone`.
fn no_clone3() -> FilterResult<BpfProgram> {
    let rules = Rules::from([(SYS_clone3, vec![])]);
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(ENOSYS as u32),
    )
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the type of an ioctl differs between C libraries"
)]
fn allow_list() -> FilterResult<BpfProgram> {
    let any = |&call: &c_long| (call, vec![]);
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_OLDER).map(any).collect();
    let this_process = u64::from(std::process::id());
    for call in [SYS_kill, SYS_tgkill] {
        rules.insert(call, vec![argument_is(0, this_process)?]);
    }
    // Threads, but no processes.
    let thread = CLONE_THREAD as u64;
    rules.insert(
        SYS_clone,
        vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?],
    );
    // One's own limits, which without capabilities can only fall.
    rules.insert(SYS_prlimit64, vec![argument_is(0, 0)?]);
    let ioctls = ALLOWED_IOCTLS
        .iter()
        .map(|&request| argument_is(1, request as u64));
    rules.insert(SYS_ioctl, ioctls.collect::<FilterResult<_>>()?);
    let fcntls = ALLOWED_FCNTLS
        .iter()
        .map(|&command| argument_is(1, command as u64));
    rules.insert(SYS_fcntl, fcntls.collect::<FilterResult<_>>()?);
    compile(
        rules,
        SeccompAction::Errno(EPERM as u32),
        SeccompAction::Allow,
    )
}

fn argument_is(idx: u8, value: u64) -> FilterResult<SeccompRule> {
    argument(idx, SeccompCmpOp::Eq, value)
}

fn argument(idx: u8, op: SeccompCmpOp, value: u64) -> FilterResult<SeccompRule> {
    let condition = SeccompCondition::new(idx, SeccompCmpArgLen::Dword, op, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> FilterResult<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, on_match, arch)?.try_into()?)
}
