//! `llada bench`: the same requests at several concurrencies, timed, beside what the machine could do;
//! or, in [`shape`], the forwards of a model of random weights.
//!
//! Every run starts with a new engine and an empty cache, all requests are submitted at once, and at
//! most `concurrency` of them run together.

mod limit;
mod report;
mod serve;
mod shape;

use llada_engine::{Method, Options};
use llada_model::Model;

use self::limit::Limit;
use self::report::Report;
use self::serve::{Run, serve};
use super::decoding::{self, Job, Row};
use super::{load_model, models};
use crate::args::{BenchArgs, ServingArgs};
use crate::{failure, ui};
use llada_request::Checkpoint;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match args {
        BenchArgs::Serving(serving) => compare(serving),
        BenchArgs::Shape {
            shape,
            kv_precision,
            json,
        } => shape::run(shape, *kv_precision, *json),
    }
}

/// Serves the requests at every concurrency and prints a row each.
fn compare(args: &ServingArgs) -> anyhow::Result<()> {
    let dir = models::whole(&args.model.dir)?;
    let (ids, precision) = (&args.model.ids, &args.model.precision);
    let checkpoint = decoding::open(&dir, ids, precision, args.model.ar)?;
    let requests = Row::read_all(&args.requests)?;
    // Every run needs its own jobs, for their hooks follow a text.
    let jobs = || jobs(args, &checkpoint, &requests);
    if jobs()?.is_empty() {
        let path = args.requests.display();
        let message = format!("`{path}`: expected at least one request, found none");
        return Err(failure::usage(message));
    }
    let model = load_model(&dir, precision.products.into())?;
    let baseline = args.baseline.as_ref().map(|dir| {
        let dir = models::whole(dir)?;
        let checkpoint = decoding::open(&dir, ids, precision, true)?;
        anyhow::Ok((load_model(&dir, precision.products.into())?, checkpoint))
    });
    let baseline = baseline.transpose()?;
    let mut rows = Vec::new();
    for concurrency in args.concurrency.iter().map(|concurrency| concurrency.get()) {
        let setting = |checkpoint| Setting::new(args, checkpoint, concurrency);
        let mut report = setting(&checkpoint).measure(&model, &jobs)?;
        if let Some((parent, checkpoint)) = &baseline {
            let jobs = || Ok(autoregressive(jobs()?));
            let baseline = setting(checkpoint).measure(parent, &jobs)?;
            rows.push(baseline.cells("parent"));
            report = report.against(baseline);
        }
        rows.push(report.cells("model"));
        if args.json {
            ui::line(serde_json::to_string(&report)?)?;
        }
    }
    if !args.json {
        ui::line(ui::table(&Report::HEADER, &rows).trim_end())?;
    }
    Ok(())
}

/// Makes what the engine is asked from the requests as they were written.
fn jobs(args: &ServingArgs, checkpoint: &Checkpoint, rows: &[Row]) -> anyhow::Result<Vec<Job>> {
    let job = |row: &Row| {
        let job = decoding::job(checkpoint, row.clone(), &args.decoding)?;
        let place = job.place.clone();
        failure::at(place.as_deref(), check_measured(job))
    };
    rows.iter().map(job).collect()
}

/// Refuses a job whose answer would tell more than is reported.
fn check_measured(job: Job) -> anyhow::Result<Job> {
    match job.settings.records() {
        Some(name) => Err(failure::usage(format!(
            "`{name}` adds to the JSON of an answer, which a benchmark does not print"
        ))),
        None => Ok(job),
    }
}

/// Returns the same prompts for a model that writes token by token.
fn autoregressive(mut jobs: Vec<Job>) -> Vec<Job> {
    for job in &mut jobs {
        job.request.method = Method::Autoregression;
    }
    jobs
}

/// How a model is measured.
struct Setting<'a> {
    args: &'a ServingArgs,
    concurrency: usize,
    options: Options,
}

impl<'a> Setting<'a> {
    fn new(args: &'a ServingArgs, checkpoint: &Checkpoint, concurrency: usize) -> Self {
        let mut options = checkpoint.options(concurrency, None);
        if let Some(rows) = args.prefill_rows {
            options.capacity.prefill_rows = rows.get();
        }
        options.savings.fused_commit = !args.no_fused_commit;
        options.savings.prefix_cache = !args.no_prefix_cache;
        Self {
            args,
            concurrency,
            options,
        }
    }

    /// Serves the requests as often as asked and reports the median run.
    fn measure(
        &self,
        model: &Model,
        jobs: &dyn Fn() -> anyhow::Result<Vec<Job>>,
    ) -> anyhow::Result<Report> {
        let serve = || serve(model, self.options.clone(), jobs()?);
        if self.args.warmup {
            serve()?;
        }
        let runs = (0..self.args.repeat.get()).map(|_| serve());
        let mut runs: Vec<Run> = runs.collect::<Result<_, _>>()?;
        let seconds_per_run = runs.iter().map(|run| run.elapsed.as_secs_f64()).collect();
        runs.sort_by_key(|run| run.elapsed);
        let median = &runs[runs.len() / 2];
        let products = self.args.model.precision.products.into();
        let limit = Limit::of(median, model, &self.options, products);
        Ok(Report::new(
            self.concurrency,
            seconds_per_run,
            median,
            limit,
        ))
    }
}
