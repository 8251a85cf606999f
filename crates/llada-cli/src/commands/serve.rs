//! `llada serve`: models behind HTTP.
//!
//! Arguments, files and signals are here; everything that comes in over a socket is the business of
//! `llada-server`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use indicatif::HumanBytes;
use llada_engine::{Engine, Options};
use llada_model::{Adapter, Config, KvStore, Weights};
use llada_server::{ApiKeys, Model, Seat, Served, Server};
use llada_tensor::{LowRank, Precision};
use tokio::net::TcpListener;
use tokio::signal;

use super::{decoding, load_model_watched, quantised};
use crate::args::{AdapterName, LogFormat, ModelName, ServeArgs};
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
    let setups = setups(args, threads)?;
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

/// Reads what is quick to read of all models, so that mistakes end the program at once.
fn setups(args: &ServeArgs, threads: Option<usize>) -> anyhow::Result<Vec<Setup>> {
    for adapter in &args.adapters {
        check_base(adapter, &args.models)?;
    }
    let mut setups = Vec::new();
    for model in &args.models {
        let pool = ui::thread_pool(threads)?;
        let base = Arc::new(Base {
            dir: pool.install(|| quantised::open(&model.dir, args.weights.quant))?,
            precision: args.precision.products.into(),
            loaded: OnceLock::new(),
        });
        setups.push(Setup::read(args, &model.name, Arc::clone(&base), pool)?);
        let is_own = |adapter: &&AdapterName| match &adapter.base {
            Some(base) => *base == model.name,
            None => true, // there is one model
        };
        for adapter in args.adapters.iter().filter(is_own) {
            let pool = ui::thread_pool(threads)?;
            let setup = Setup::read(args, &adapter.name, Arc::clone(&base), pool)?;
            setups.push(setup.with_adapter(adapter)?);
        }
    }
    Ok(setups)
}

/// Refuses an adapter that does not say which of the models it is of.
fn check_base(adapter: &AdapterName, models: &[ModelName]) -> anyhow::Result<()> {
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    let (name, known) = (&adapter.name, names.join("`, `"));
    match &adapter.base {
        Some(base) if names.contains(&base.as_str()) => Ok(()),
        Some(base) => Err(failure::usage(format!(
            "--lora {name}@{base}: no MODEL is named `{base}`; expected one of `{known}`"
        ))),
        None if models.len() == 1 => Ok(()),
        None => Err(failure::usage(format!(
            "--lora {name}: of which MODEL? Name one of `{known}`, as {name}@{}=DIR",
            names[0]
        ))),
    }
}

/// The weights of a model and of all adapters beside it, loaded by the first that needs them.
struct Base {
    dir: PathBuf,
    precision: Precision,
    loaded: OnceLock<Result<llada_model::Model, String>>,
}

impl Base {
    fn model(&self, seat: &Seat) -> Result<&llada_model::Model, String> {
        let mut watch = |done, total| {
            let (done, total) = (HumanBytes(done), HumanBytes(total));
            seat.say(format!("reading weights: {done} of {total}"));
        };
        let load = || {
            let model = load_model_watched(&self.dir, self.precision, &mut watch);
            model.map_err(|error| failure::message(&error))
        };
        self.loaded.get_or_init(load).as_ref().map_err(Clone::clone)
    }
}

/// How a model is loaded.
struct Setup {
    name: String,
    base: Arc<Base>,
    adapter: Option<Weights<Option<LowRank>>>,
    served: Served,
    options: Options,
    pool: rayon::ThreadPool,
}

impl Setup {
    fn read(
        args: &ServeArgs,
        name: &str,
        base: Arc<Base>,
        pool: rayon::ThreadPool,
    ) -> anyhow::Result<Self> {
        let config = Config::of_checkpoint(&base.dir)?;
        let is_causal = args.ids.mask_id.or(config.mask_token_id).is_none();
        let checkpoint = decoding::open(&base.dir, &args.ids, &args.precision, is_causal)?;
        checkpoint
            .tokenizer_for("a server")
            .map_err(failure::usage)?;
        let longest = config.max_position_embeddings;
        let context = args.context.map_or(longest, |context| context.get());
        if context > longest {
            return Err(failure::usage(format!(
                "--context {context} is longer than the {longest} tokens of `{}`",
                base.dir.display()
            )));
        }
        let mut options = checkpoint.options(args.max_concurrent.get(), None);
        if let Some(memory) = args.kv_memory {
            options.capacity.pages = memory.0 / page_bytes(&options, &config);
        }
        Ok(Self {
            name: name.into(),
            base,
            adapter: None,
            served: Served {
                checkpoint,
                context,
            },
            options,
            pool,
        })
    }

    fn with_adapter(self, adapter: &AdapterName) -> anyhow::Result<Self> {
        let config = Config::of_checkpoint(&self.base.dir)?;
        let parts = Adapter::open(&adapter.dir)?.fit(&config)?;
        Ok(Self {
            adapter: Some(parts),
            ..self
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
            base,
            adapter,
            served,
            options,
            pool,
            ..
        } = self;
        // Kernels run inside the pool, so the whole loop does.
        pool.install(move || {
            let mut model = base.model(&seat)?.clone(); // which shares the weights
            if let Some(parts) = adapter {
                model = model.with_adapter(parts);
            }
            seat.serve(served, || Engine::new(&model, options.clone()))
        })
    }
}

/// Returns the bytes that a page of keys and values takes.
fn page_bytes(options: &Options, config: &Config) -> usize {
    let row = KvStore::bytes_per_row(config, options.kv_precision);
    (options.capacity.page_rows * row).max(1)
}
