//! The sandbox against programs that misbehave, with bubblewrap where it is installed and without.
//!
//! Without `python3`, or on a kernel that cannot confine, the tests say so and pass.

#![expect(clippy::print_stderr, reason = "a skipped test says what it skipped")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod hostile;

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hostile::Hostile;
use llada_eval::sandbox::{
    Enforcement, Error, Exit, Launcher, Limits, Outcome, Program, Sandbox, Verdict,
};

/// Tests look for processes that are left, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launcher() -> Launcher {
    Launcher {
        program: PathBuf::from(env!("CARGO_BIN_EXE_llada-sandbox-exec")),
        args: Vec::new(),
    }
}

/// A sandbox without bubblewrap and, where that makes a difference, one within.
fn sandboxes() -> Vec<Sandbox> {
    let kernel = match Sandbox::probe_without_bubblewrap(launcher()) {
        Ok(sandbox) => sandbox,
        Err(error) if cannot_run_here(&error) => {
            eprintln!("skipped: {error}");
            return Vec::new();
        }
        Err(error) => panic!("{error}"),
    };
    let best = Sandbox::probe(launcher(), Enforcement::Required).unwrap();
    let both = best.layers() != kernel.layers();
    if !both {
        eprintln!("skipped: bubblewrap ({:?})", best.bubblewrap_failure());
    }
    [kernel].into_iter().chain(both.then_some(best)).collect()
}

/// A launcher that refused ran nothing; a wall that gave way is no reason to skip.
fn cannot_run_here(error: &Error) -> bool {
    match error {
        Error::NoPython { .. } | Error::PythonHoldsHome { .. } => true,
        Error::NotEnforced { found } => found.starts_with("cannot set up"),
        _ => false,
    }
}

/// A file of the user, in a directory of its own.
struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("canary"), "alive").unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("canary")
    }

    fn assert_unchanged(&self) {
        let names = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["canary"]);
        assert_eq!(fs::read_to_string(self.path()).unwrap(), "alive");
    }
}

/// Processes of this machine that run a sandboxed program.
fn programs_running() -> BTreeSet<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&command)
            .contains("/program.py")
            .then_some(pid)
    });
    pids.collect()
}

/// Waits for what runs now to go: a killed process takes a moment, and a program of another test that
/// runs at the same time is ended by its limit of 10 s. One of ours that got away would stay.
fn assert_none_left(before: &BTreeSet<u32>) {
    let left = &programs_running() - before;
    for _ in 0..750 {
        if programs_running().is_disjoint(&left) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("left running: {:?}", &programs_running() & &left);
}

fn assert_contained(hostile: &Hostile, outcome: &Outcome) {
    let name = hostile.name;
    assert!(
        !outcome.stdout.text.contains("BREACH"),
        "{name}: {outcome:?}"
    );
    assert_eq!(outcome.verdict, hostile.verdict, "{name}: {outcome:?}");
}

/// Runs `rounds` of all hostile programs, `at_once` at a time.
fn run_hostile(sandbox: &Sandbox, rounds: usize, at_once: usize) {
    let (canary, before) = (Canary::new(), programs_running());
    let hostile: Vec<&Hostile> = (0..rounds).flat_map(|_| hostile::ALL).collect();
    let programs: Vec<Program> = hostile
        .iter()
        .map(|it| it.program(&canary.path()))
        .collect();
    let at_once = NonZeroUsize::new(at_once).unwrap();
    let outcomes = sandbox.run_all(&programs, at_once, |_, _| {}).unwrap();
    assert_eq!(outcomes.len(), hostile.len());
    for (hostile, outcome) in hostile.into_iter().zip(&outcomes) {
        assert_contained(hostile, outcome);
    }
    canary.assert_unchanged();
    assert_none_left(&before);
}

#[test]
fn every_hostile_program_is_contained() {
    let _alone = alone();
    for sandbox in sandboxes() {
        run_hostile(&sandbox, 1, 2);
    }
}

#[test]
fn a_thousand_hostile_programs_leave_nothing_behind() {
    let _alone = alone();
    if std::env::var_os("LLADA_SLOW_TESTS").is_none() {
        eprintln!("skipped: set LLADA_SLOW_TESTS=1");
        return;
    }
    for sandbox in sandboxes() {
        run_hostile(&sandbox, 1000_usize.div_ceil(hostile::ALL.len()), 4);
    }
}

#[test]
fn a_right_program_passes_and_a_wrong_one_fails() {
    let _alone = alone();
    let add = "def add(a, b): return a + b\n";
    for sandbox in sandboxes() {
        let right = Program::new(format!("{add}assert add(2, 3) == 5"));
        assert_eq!(sandbox.run(&right).unwrap().verdict, Verdict::Passed);
        let outcome = sandbox
            .run(&Program::new(format!("{add}assert add(2, 3) == 6")))
            .unwrap();
        assert_eq!(
            (outcome.verdict, outcome.exit),
            (Verdict::Failed, Exit::Code(1))
        );
        assert!(
            outcome.stderr.text.ends_with("AssertionError\n"),
            "{outcome:?}"
        );
    }
}

#[test]
fn what_solutions_use_works() {
    let _alone = alone();
    let code = "
import collections, concurrent.futures, datetime, decimal, functools, heapq, itertools, json, math
import random, re, signal, statistics, string, tempfile, threading, typing, zoneinfo
assert list(concurrent.futures.ThreadPoolExecutor(2).map(abs, [-1, -2])) == [1, 2]
threading.stack_size(64 << 20)
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
with tempfile.TemporaryDirectory() as dir: open(dir + '/x', 'w').write('ü')
signal.setitimer(signal.ITIMER_REAL, 100)
exit(0)";
    for sandbox in sandboxes() {
        let outcome = sandbox.run(&Program::new(code)).unwrap();
        assert_eq!(outcome.verdict, Verdict::Passed, "{outcome:?}");
    }
}

#[test]
fn input_arrives_and_output_beyond_the_limit_is_dropped() {
    let _alone = alone();
    for sandbox in sandboxes() {
        let program = Program {
            stdin: "hé\n".repeat(100_000),
            limits: Limits {
                output_bytes: 10,
                ..Limits::default()
            },
            ..Program::new(
                "import sys\nprint('y' * 9)\nprint(len(sys.stdin.read()), file=sys.stderr)\n",
            )
        };
        let outcome = sandbox.run(&program).unwrap();
        assert_eq!(
            (outcome.stdout.text.as_str(), outcome.stdout.truncated),
            ("yyyyyyyyy\n", false)
        );
        assert_eq!(outcome.stderr.text, "300000\n");
        let much = Program {
            code: "print('z' * 1_000_000)".to_owned(),
            ..program
        };
        let outcome = sandbox.run(&much).unwrap();
        assert_eq!(
            (outcome.stdout.text.as_str(), outcome.stdout.truncated),
            ("zzzzzzzzzz", true)
        );
        assert_eq!(outcome.verdict, Verdict::Passed);
    }
}

#[test]
fn sets_have_the_same_order_in_every_run() {
    let _alone = alone();
    for sandbox in sandboxes() {
        let program = Program::new("print({str(i) for i in range(50)})");
        let [first, second] = [(); 2].map(|()| sandbox.run(&program).unwrap());
        assert_eq!(first, second);
        assert_eq!(first.verdict, Verdict::Passed);
    }
}

#[test]
fn cpu_time_is_limited_apart_from_wall_time() {
    let _alone = alone();
    for sandbox in sandboxes() {
        let limits = Limits {
            cpu: Duration::from_secs(1),
            wall: Duration::from_secs(60),
            ..Limits::default()
        };
        let program = Program {
            limits,
            ..Program::new("while True: pass")
        };
        let outcome = sandbox.run(&program).unwrap();
        assert_eq!(outcome.verdict, Verdict::TimedOut, "{outcome:?}");
        assert_eq!(outcome.exit, Exit::Signal(24)); // SIGXCPU, not the harness's SIGKILL
    }
}

#[test]
fn a_launcher_that_does_not_confine_is_refused() {
    let _alone = alone();
    if sandboxes().is_empty() {
        return;
    }
    let [path, home] = ["PATH", "HOME"].map(|name| std::env::var(name).unwrap_or_default());
    let script = format!("PATH='{path}' HOME='{home}' exec python3 program.py");
    let unconfined = Launcher {
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".to_owned(), script],
    };
    let error = Sandbox::probe_without_bubblewrap(unconfined).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("landlock (reading) is not enforced"),
        "{error}"
    );
}

#[test]
fn a_launcher_refuses_what_is_no_specification() {
    let error = llada_eval::sandbox::exec_confined("{}");
    assert!(matches!(error, Error::Specification(_)), "{error}");
}

#[test]
fn without_enforcement_a_program_that_hangs_is_still_ended() {
    let _alone = alone();
    let sandbox = match Sandbox::probe(launcher(), Enforcement::Off) {
        Ok(sandbox) => sandbox,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    assert_eq!(sandbox.layers(), "none");
    let before = programs_running();
    let limits = Limits {
        wall: Duration::from_secs(1),
        ..Limits::default()
    };
    let program = Program {
        limits,
        ..Program::new("import os\nos.fork()\nwhile True: pass")
    };
    assert_eq!(sandbox.run(&program).unwrap().verdict, Verdict::TimedOut);
    assert_none_left(&before);
}
