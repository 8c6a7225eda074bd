//! The commands and what `--help` teaches.

use crate::flags::frontend::FrontendFlags;
use crate::flags::operator::OperatorFlags;
use crate::flags::worker::{EngineChoice, WorkerFlags};
use crate::report::Failure;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// From a laptop to a verified LLM endpoint, with one binary.
///
/// `busbar up` starts an OpenAI-compatible endpoint on this machine: a frontend with a KV-cache-aware router and two
/// workers, from the same DynamoGraphDeployment file that a cluster takes. With a platform file it does the same on a
/// Kubernetes cluster.
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
    /// Run a graph on this machine and keep it running, or install a platform on its cluster.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpFlags),
    /// Show what `up` would make or change, and why; changes nothing.
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanFlags),
    /// Ask what runs: is it as the file says, and does it answer?
    Verify(VerifyFlags),
    /// Find what is wrong with a file: a graph or a platform. Asks no cluster.
    Lint {
        /// DynamoGraphDeployment or Platform; several are checked one after the other.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show what runs on this machine.
    Status(SelectRun),
    /// Show the log of a component or of one of its processes.
    Logs(LogFlags),
    /// Drain and stop what runs on this machine, or remove a platform from its cluster.
    #[command(after_help = DOWN_EXAMPLES)]
    Down(DownFlags),
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
    /// Act on graphs in a Kubernetes cluster: make their objects, update and restart them, and say how they are.
    Operator(Box<OperatorFlags>),
    /// Give a graph in a Kubernetes cluster the spec of an earlier revision.
    Rollback(RollbackFlags),
    /// The CustomResourceDefinitions: print them as YAML, write them into a folder, or put them into a cluster.
    #[command(after_help = CRDS_EXAMPLES)]
    Crds(CrdsFlags),
    /// Write the generated pages of docs/reference into a folder.
    #[command(hide = true)]
    Reference {
        /// The folder.
        folder: PathBuf,
    },
}

const CRDS_EXAMPLES: &str = "\
Examples:
  busbar crds --apply                               into the cluster of the current context
  busbar crds | kubectl apply --server-side -f -    the same with kubectl";

const UP_EXAMPLES: &str = "\
Examples:
  busbar up                                  the built-in graph, with a small real model
  busbar up --detach && busbar status        in the background
  busbar up examples/agg_router.yaml         a graph file
  busbar up --model ./model.gguf             your own model
  busbar up --engine mock                    no model at all, deterministic answers
  busbar up examples/platform.yaml           a platform on a Kubernetes cluster; run again after any failure";

const PLAN_EXAMPLES: &str = "\
Examples:
  busbar plan platform.yaml                  what is on the cluster, and what would change
  busbar plan platform.yaml --offline        without asking any cluster
  busbar plan platform.yaml -o json          the whole plan: chart values, manifests, checks, questions";

const DOWN_EXAMPLES: &str = "\
Examples:
  busbar down                                all that runs on this machine
  busbar down vllm-agg-router                one graph on this machine
  busbar down platform.yaml                  the platform on its cluster; asks before data goes
  busbar down platform.yaml --keep-data      all but its volumes";

/// Flags of `up`.
#[derive(Args)]
pub(crate) struct UpFlags {
    /// A DynamoGraphDeployment, v1alpha1 or v1beta1, which runs on this machine; or a Platform, which goes to its target.
    /// Without it: one frontend with KV routing and two workers.
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
    /// How long the first readiness may take, in seconds; 120 when absent, 1800 with vLLM and on a cluster.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ready_timeout: Option<u64>,
    /// How long a process may finish its work when it is told to stop, in seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) drain_timeout: u64,
    /// Take fields of graphs on a cluster from whoever else has set them.
    #[arg(long)]
    pub(crate) force_conflicts: bool,
}

/// Flags of `plan`.
#[derive(Args)]
pub(crate) struct PlanFlags {
    /// A Platform.
    pub(crate) file: PathBuf,
    /// Ask no cluster: the plan alone, without what is there.
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Flags of `verify`.
#[derive(Args)]
pub(crate) struct VerifyFlags {
    /// A Platform.
    pub(crate) file: PathBuf,
}

/// Flags of `down`.
#[derive(Args)]
pub(crate) struct DownFlags {
    /// Name of a graph on this machine, or the file of a graph or a platform; all graphs of this machine when absent.
    #[arg(value_name = "GRAPH|FILE")]
    pub(crate) what: Option<String>,
    /// Of a platform: keep its volumes, the secrets that open them, and the namespaces around them.
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// Of a platform: keep the CustomResourceDefinitions.
    #[arg(long)]
    pub(crate) keep_crds: bool,
    /// Do not ask before data goes.
    #[arg(short, long)]
    pub(crate) yes: bool,
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

/// Flags of `rollback`.
#[derive(Args)]
pub(crate) struct RollbackFlags {
    /// Name of the graph.
    pub(crate) graph: String,
    /// Number of the revision; without it, the latest one that differs from what the graph says now.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) to_revision: Option<i64>,
    /// Kubernetes namespace of the graph; the context's when absent.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) k8s_namespace: Option<String>,
    /// Kubeconfig; as kubectl finds it when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one when absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
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
    /// Put them into the cluster and wait until it serves them; safe to run again.
    #[arg(long, conflicts_with = "output_dir")]
    pub(crate) apply: bool,
    /// Kubeconfig for --apply; as kubectl finds it when absent, and in a pod the pod's own.
    #[arg(long, value_name = "FILE", requires = "apply")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig for --apply; the current one when absent.
    #[arg(long, value_name = "NAME", requires = "apply")]
    pub(crate) context: Option<String>,
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
