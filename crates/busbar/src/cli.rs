//! The commands and what `--help` teaches.

use crate::flags::frontend::FrontendFlags;
use crate::flags::worker::{EngineChoice, WorkerFlags};
use crate::report::Failure;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// From a laptop to a verified LLM endpoint, with one binary.
///
/// `busbar up` starts an OpenAI-compatible endpoint on this machine: a frontend with a KV-cache-aware router and two
/// workers, from the same DynamoGraphDeployment file that a cluster takes.
#[derive(Parser)]
#[command(name = "busbar", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For machines: one JSON value on standard output.
    Json,
}

/// The verbs.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a graph on this machine and keep it running.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpFlags),
    /// Show what runs on this machine.
    Status(SelectRun),
    /// Show the log of a component or of one of its processes.
    Logs(LogFlags),
    /// Drain and stop what runs on this machine.
    Down(SelectRun),
    /// Models on this machine.
    #[command(subcommand)]
    Model(ModelCommand),
    /// This binary as a container image, made without a container engine.
    #[command(subcommand)]
    Image(ImageCommand),
    /// API keys of a frontend.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Run one frontend in this process (what `python3 -m dynamo.frontend` means in a manifest).
    Frontend(Box<FrontendFlags>),
    /// Run one worker in this process (what `python3 -m dynamo.vllm` and `dynamo.mocker` mean in a manifest).
    #[command(after_help = "Flags that are not listed here go to `vllm serve` when the engine is vllm.")]
    Worker(Box<WorkerFlags>),
    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply --server-side -f -`. The operator that acts on them is
    /// not there yet.
    Crds(CrdsFlags),
    /// Write the generated pages of docs/reference into a folder.
    #[command(hide = true)]
    Reference {
        /// The folder.
        folder: PathBuf,
    },
}

const UP_EXAMPLES: &str = "\
Examples:
  busbar up                                  the built-in graph, with a small real model
  busbar up --detach && busbar status        in the background
  busbar up examples/agg_router.yaml         a graph file
  busbar up --model ./model.gguf             your own model
  busbar up --engine mock                    no model at all, deterministic answers";

/// Flags of `up`.
#[derive(Args)]
pub(crate) struct UpFlags {
    /// A DynamoGraphDeployment, v1alpha1 or v1beta1. Without it: one frontend with KV routing and two workers.
    pub(crate) file: Option<PathBuf>,
    /// Model for every worker: FILE.gguf, a folder in Hugging Face layout, hf:OWNER/NAME, or smollm2.
    #[arg(long, env = "BUSBAR_MODEL")]
    pub(crate) model: Option<String>,
    /// Engine for every worker. Without it a worker takes what its command says; auto is vLLM where a GPU and vLLM
    /// are, else the embedded engine.
    #[arg(long, env = "BUSBAR_ENGINE", value_enum)]
    pub(crate) engine: Option<EngineChoice>,
    /// Port of the first frontend; further ones take the next ports.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Address of the frontends. Any other than loopback needs --api-keys.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// File of API key hashes; make one with `busbar keys add`.
    #[arg(long, value_name = "FILE", env = "BUSBAR_API_KEYS")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Go to the background once it serves.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// How long the first readiness may take, in seconds; 120 when absent, 1800 with vLLM.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ready_timeout: Option<u64>,
    /// How long a process may finish its work when it is told to stop, in seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) drain_timeout: u64,
}

/// Which run.
#[derive(Args)]
pub(crate) struct SelectRun {
    /// Name of the graph; all when absent.
    pub(crate) graph: Option<String>,
}

/// Flags of `logs`.
#[derive(Args)]
pub(crate) struct LogFlags {
    /// A component (`vllmdecodeworker`) or one process of it (`vllmdecodeworker-0`), or `supervisor`.
    pub(crate) component: String,
    /// Name of the graph, when several run.
    #[arg(long)]
    pub(crate) graph: Option<String>,
    /// Lines from the end.
    #[arg(short = 'n', long, default_value_t = 200)]
    pub(crate) lines: usize,
    /// Go on as lines are written.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// Flags of `crds`.
#[derive(Args)]
pub(crate) struct CrdsFlags {
    /// Kubernetes namespace of the operator, which converts between the API versions.
    #[arg(long, value_name = "NAMESPACE", default_value = crds::definition::K8S_NAMESPACE)]
    pub(crate) k8s_namespace: String,
    /// Write one file a kind into this folder instead.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output_dir: Option<PathBuf>,
}

/// Verbs of `model`.
#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Bring a model to this machine without starting anything.
    Fetch {
        /// hf:OWNER/NAME, FILE.gguf, a folder, or smollm2 (the default).
        model: Option<String>,
        /// Bring it into this folder, which several machines may share: one of them writes at a time, the others wait.
        /// Workers read it there, without writing, by BUSBAR_MODEL_CACHE=FOLDER and the model's name, or by --model FOLDER
        /// where it is the only one.
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
        /// With --into: compare every byte with the folder's MANIFEST.json; without it sizes and times.
        #[arg(long, requires = "into")]
        verify: bool,
        /// Engine that will run it: embedded takes a GGUF file, vllm safetensors, mock the tokenizer alone.
        #[arg(long, value_enum, default_value = "embedded")]
        engine: EngineChoice,
    },
}

/// Verbs of `image`.
#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Pack this binary and bring the image to a registry; what is there is not sent again.
    ///
    /// The login is BUSBAR_REGISTRY_USERNAME and BUSBAR_REGISTRY_PASSWORD, else what `docker login` left, credential
    /// helpers included.
    #[command(after_help = PUSH_EXAMPLES)]
    Push {
        /// REGISTRY/NAME[:TAG]; the tag is this version unless written.
        reference: String,
        /// Image to lie on, such as vllm/vllm-openai:TAG; on nothing when absent.
        #[arg(long, value_name = "REF")]
        base: Option<String>,
        #[command(flatten)]
        flags: ImageFlags,
    },
    /// Pack this binary and write the image to a file that `ctr images import` and `podman load` read.
    Save {
        /// The file, a tar.
        file: PathBuf,
        /// Name of the image when it is imported; localhost/busbar and this version when absent.
        #[arg(long, value_name = "REF")]
        name: Option<String>,
        #[command(flatten)]
        flags: ImageFlags,
    },
}

const PUSH_EXAMPLES: &str = "\
Examples:
  busbar image push registry.example.com/team/busbar             frontend, operator, embedded engine
  busbar image push registry.example.com/team/busbar-vllm --base vllm/vllm-openai:v0.32.0
                                                                 the vLLM worker";

/// Flags of every verb of `image`.
#[derive(Args)]
pub(crate) struct ImageFlags {
    /// Speak plain HTTP with registries; with one on this machine it is the rule.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Leave out names of functions and lines of source: a smaller image, backtraces without names.
    #[arg(long)]
    pub(crate) strip: bool,
}

/// Verbs of `keys`.
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key, append its hash to a file, and print the key once.
    Add {
        /// Who holds the key; shown in logs and metrics.
        name: String,
        /// The file of hashes.
        #[arg(long, default_value = "api-keys.txt")]
        file: PathBuf,
    },
}

/// The whole command tree, for help, reference pages and the parsing of manifests.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Parses a command line; `--help` and `--version` print and end the process with 0.
pub(crate) fn parse(argv: &[String]) -> Result<Cli, Failure> {
    Cli::try_parse_from(argv).map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        Failure::usage(&error.to_string())
    })
}
