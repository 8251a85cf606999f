//! `llada serve`: models behind HTTP.
//!
//! Arguments, files and signals are here; everything that comes in over a socket is the business of
//! `llada-server`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use llada_engine::{Capacity, Engine, Options};
use llada_model::{Config, KvStore};
use llada_server::{ApiKeys, Model, Seat, Served, Server};
use tokio::net::TcpListener;
use tokio::signal;

use super::{decoding, load_model, quantised};
use crate::args::{LogFormat, ModelName, ServeArgs};
use crate::{failure, ui};

pub(crate) fn run(args: &ServeArgs, threads: Option<usize>) -> anyhow::Result<()> {
    start_log(args.log);
    let config = llada_server::Config {
        api_keys: api_keys(args.api_key_file.as_deref())?,
        places: args.max_concurrent.get().saturating_add(args.queue),
        request_timeout: Duration::from_secs(args.request_timeout.get()),
        shutdown_grace: Duration::from_secs(args.shutdown_timeout),
        ..llada_server::Config::default()
    };
    let setups = args
        .models
        .iter()
        .map(|name| Setup::read(args, name, threads));
    let setups = setups.collect::<anyhow::Result<Vec<_>>>()?;
    let models = setups.into_iter().map(Setup::into_model).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    runtime.block_on(async {
        let address = SocketAddr::new(args.host, args.port);
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("the socket has no address")?;
        let server = Server::new(config, models).map_err(failure::usage)?;
        let stop = stop_signal()?;
        if let Some(path) = &args.port_file {
            write_port(path, address.port())?;
        }
        ui::say(format!("listening on http://{address}"));
        server.serve(listener, stop).await;
        Ok(())
    })
}

/// Writes the log to stderr. One that cannot be written is lost, and the server goes on.
fn start_log(format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

fn api_keys(path: Option<&Path>) -> anyhow::Result<ApiKeys> {
    let Some(path) = path else {
        return Ok(ApiKeys::default());
    };
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read `{}`", path.display()))?;
    let keys = ApiKeys::parse(&text);
    match keys.is_empty() {
        true => Err(failure::usage(format!(
            "`{}` holds no key; expected one per line",
            path.display()
        ))),
        false => Ok(keys),
    }
}

/// Writes the port beside its file first, so that whoever waits for the file finds it whole.
fn write_port(path: &Path, port: u16) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = std::fs::write(&beside, format!("{port}\n"));
    let written = written.and_then(|()| std::fs::rename(&beside, path));
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Returns what is ready when the process is told to end.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal::unix::signal(signal::unix::SignalKind::terminate())
        .context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = signal::ctrl_c() => {}
        }
    })
}

/// How a model is loaded.
struct Setup {
    name: String,
    dir: PathBuf,
    served: Served,
    options: Options,
    pool: rayon::ThreadPool,
    precision: llada_tensor::Precision,
}

impl Setup {
    /// Reads what is quick to read, so that mistakes end the program at once.
    fn read(args: &ServeArgs, name: &ModelName, threads: Option<usize>) -> anyhow::Result<Self> {
        let pool = ui::thread_pool(threads)?;
        let dir = pool.install(|| quantised::open(&name.dir, args.weights.quant))?;
        let config = Config::of_checkpoint(&dir)?;
        let is_causal = args.ids.mask_id.or(config.mask_token_id).is_none();
        let checkpoint = decoding::open(&dir, &args.ids, is_causal)?;
        checkpoint
            .tokenizer_for("a server")
            .map_err(failure::usage)?;
        let longest = config.max_position_embeddings;
        let context = args.context.map_or(longest, |context| context.get());
        if context > longest {
            return Err(failure::usage(format!(
                "--context {context} is longer than the {longest} tokens of `{}`",
                name.dir.display()
            )));
        }
        let pages = args.kv_memory.map(|memory| pages(memory.0, &config));
        let options = checkpoint.options(args.max_concurrent.get(), pages);
        Ok(Self {
            name: name.name.clone(),
            dir,
            served: Served {
                checkpoint,
                context,
            },
            options,
            pool,
            precision: args.precision.into(),
        })
    }

    fn into_model(self) -> Model {
        Model {
            name: self.name.clone(),
            run: Box::new(move |seat| self.serve(seat)),
        }
    }

    fn serve(self, seat: Seat) -> Result<(), String> {
        seat.say("reading weights");
        let Self {
            dir,
            served,
            options,
            pool,
            precision,
            ..
        } = self;
        // Kernels run inside the pool, so the whole loop does.
        pool.install(move || {
            let model = load_model(&dir, precision);
            let model = model.map_err(|error| failure::message(&error))?;
            seat.serve(served, || Engine::new(&model, options.clone()))
        })
    }
}

/// Returns the pages that fit into so many bytes.
fn pages(bytes: usize, config: &Config) -> usize {
    let page = Capacity::new(config).page_rows * KvStore::bytes_per_row(config);
    bytes / page.max(1)
}
