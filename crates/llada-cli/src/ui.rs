//! Progress bars, tables and threads.

use std::path::PathBuf;

use anyhow::Context;
use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System};

/// Builds the pool in which the program runs.
pub(crate) fn thread_pool(threads: Option<usize>) -> anyhow::Result<rayon::ThreadPool> {
    if threads == Some(0) {
        return Err(crate::failure::usage(
            "--threads must be at least 1, found 0",
        ));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build()
        .context("cannot start worker threads")
}

/// Returns the bytes of memory that the process holds, or 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    own_process(|_, process| Some(process.memory())).unwrap_or(0)
}

/// Returns the bytes of memory that the process can have without others losing theirs, or its container
/// allows, where the system says so.
pub(crate) fn free_bytes() -> Option<u64> {
    own_process(|system, process| {
        let of_machine = Some(system.available_memory()).filter(|bytes| *bytes > 0);
        let of_container = process.cgroup_limits();
        // Files that the system keeps in memory count as its use, but give way.
        let of_container = of_container.map(|group| group.total_memory.saturating_sub(group.rss));
        of_machine.into_iter().chain(of_container).min()
    })
}

/// Returns what the system says of its memory and of this process.
fn own_process<T>(read: impl FnOnce(&System, &Process) -> Option<T>) -> Option<T> {
    let (mut system, own) = (System::new().ok()?, sysinfo::get_current_pid().ok()?);
    system.refresh_memory();
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, memory);
    read(&system, system.process(own)?)
}

/// Prints one line of data to stdout; see [`write()`].
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes a piece of text to stdout at once; where nobody reads it any more, that is no error.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Prints one line of progress to stderr. Where that cannot be written, as on a full disk, it is lost.
pub(crate) fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Shows on stderr that a line is expected.
#[expect(clippy::print_stderr, reason = "a prompt is no data")]
pub(crate) fn prompt(text: &str) {
    eprint!("{text}");
}

/// Returns rows as text with aligned columns: the first to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            text += &if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
        }
        text + "\n"
    };
    let mut text = render(&mut header.iter().copied());
    for row in rows {
        text += &render(&mut row.iter().map(String::as_str));
    }
    text
}

/// Starts a progress bar on stderr; it shows nothing when stderr is not a terminal.
pub(crate) fn bar(len: u64, unit: &str) -> indicatif::ProgressBar {
    let template =
        format!("{{bar:40}} {{pos}}/{{len}} {unit}  {{elapsed}} elapsed, {{eta}} left{{msg}}");
    let style = indicatif::ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(len).with_style(style)
}

/// Starts a progress bar of bytes, the number of which is not known yet.
pub(crate) fn byte_bar() -> indicatif::ProgressBar {
    let template = "{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {msg}";
    let style = indicatif::ProgressStyle::with_template(template)
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(0).with_style(style)
}

/// Returns the directory for what can be made again: `LLADA_CACHE`, or `llada` in the caches of the
/// system.
pub(crate) fn cache_dir() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("LLADA_CACHE").filter(|dir| !dir.is_empty());
    let dir = named.map(PathBuf::from);
    let dir = dir.or_else(|| Some(dirs::cache_dir()?.join("llada")));
    dir.context("there is no cache directory; set LLADA_CACHE to one")
}

/// Returns a way to draw text that changes, if stdout is a terminal.
pub(crate) fn live() -> Option<crate::live::Live> {
    let terminal = console::Term::stdout();
    let (_, columns) = terminal.size();
    let colour = console::colors_enabled(); // minds NO_COLOR
    let live = crate::live::Live::new(usize::from(columns), colour);
    terminal.is_term().then_some(live)
}
