//! Why an image is not made or not pushed, and what to do.

use super::elf::ElfError;
use std::path::PathBuf;

/// Why an image is not made or not pushed. `Display` says what failed and where; [`ImageError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text names no image in a registry.
    #[error("`{text}` names no image that could be pushed: {why}")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of this machine cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of this machine cannot be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no program or library.
    #[error("read {path}: {source}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// The binary is for a machine that images have no word for here.
    #[error("the binary is for machine {machine}, and only x86-64 (62) and AArch64 (183) are packed")]
    Machine {
        /// `e_machine` of its header.
        machine: u16,
    },
    /// A library that the binary needs is not here.
    #[error("the library {name} that the binary needs is not on this machine")]
    Library {
        /// Its name.
        name: String,
    },
    /// The binary would not find its libraries in the image.
    #[error("{path} was linked without the RPATH /usr/lib/busbar, where the image has its libraries")]
    NoSearchPath {
        /// The binary.
        path: PathBuf,
    },
    /// A layer cannot be written.
    #[error("pack the {what}")]
    Pack {
        /// Which part.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Login names and passwords of registries cannot be had.
    #[error("read the login for {registry} out of {file}: {why}")]
    Credentials {
        /// The registry.
        registry: String,
        /// The file that says where they are.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// Nobody answers at the registry.
    #[error("reach the registry {registry}: {why}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The deepest cause.
        why: String,
    },
    /// The registry speaks no TLS, or its certificate is not trusted.
    #[error("speak TLS with the registry {registry}: {why}")]
    Tls {
        /// The registry.
        registry: String,
        /// The deepest cause.
        why: String,
    },
    /// The registry does not know us, or not with these rights.
    #[error("the registry {registry} does not let {who} {act} {repository}")]
    Denied {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Who asked.
        who: String,
        /// `push to` or `pull from`.
        act: &'static str,
    },
    /// The registry has no such repository or image.
    #[error("the registry {registry} does not have {repository}")]
    NameUnknown {
        /// The registry.
        registry: String,
        /// The repository, with the tag where one was asked for.
        repository: String,
    },
    /// The registry asks to wait.
    #[error("the registry {registry} answers that there are too many requests")]
    TooManyRequests {
        /// The registry.
        registry: String,
    },
    /// The registry answered something else.
    #[error("the registry {registry} did not take {what}: {why}")]
    Refused {
        /// The registry.
        registry: String,
        /// What was sent or asked for.
        what: String,
        /// Its answer.
        why: String,
    },
    /// The base image is for another machine than the binary, or its description cannot be read.
    #[error("the base image {base} cannot be built upon: {why}")]
    Base {
        /// Its reference.
        base: String,
        /// Why.
        why: String,
    },
}

impl ImageError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Reference { .. } => "write REGISTRY/NAME:TAG, such as registry.example.com/team/busbar:1".into(),
            Self::Read { path, .. } => format!("give access to {}", path.display()),
            Self::Write { path, .. } => format!("check the folder and the free space of {}", path.display()),
            Self::Elf { .. } | Self::Machine { .. } => "run this from the binary that is to be packed, on Linux".into(),
            Self::Library { name } => format!("install the package that has {name}, then run this again"),
            Self::NoSearchPath { .. } => "build it with `make build`, which gives it that RPATH".into(),
            Self::Pack { .. } => "free some memory, then run this again".into(),
            Self::Credentials { registry, .. } => {
                format!("run `docker login {registry}`, or set BUSBAR_REGISTRY_USERNAME and BUSBAR_REGISTRY_PASSWORD")
            }
            Self::Unreachable { registry, .. } => {
                format!("check that {registry} is spelled right and that this machine has a route to it")
            }
            Self::Tls { registry, .. } => format!(
                "if {registry} speaks plain HTTP, add --plain-http; if its certificate is of an authority of your own, \
                 add that to this machine's trusted ones"
            ),
            Self::Denied { registry, repository, .. } => denied_remedy(registry, repository),
            Self::NameUnknown { registry, repository } if is_ecr(registry) => format!(
                "make it: `aws ecr create-repository --repository-name {}`",
                repository.split(':').next().unwrap_or(repository)
            ),
            Self::NameUnknown { .. } => "make the repository in the registry, or check its spelling".into(),
            Self::TooManyRequests { .. } => {
                "wait a minute, then run this again; what is there is not sent twice".into()
            }
            Self::Refused { .. } => "read the registry's answer; what is there already is not sent twice".into(),
            Self::Base { .. } => {
                "name a base for the machine that the binary is for, such as vllm/vllm-openai:TAG".into()
            }
        }
    }

    /// Whether the same call may succeed a moment later.
    pub fn may_heal(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TooManyRequests { .. })
    }
}

fn denied_remedy(registry: &str, repository: &str) -> String {
    let rights = format!("check that the account may write {repository}");
    if is_ecr(registry) {
        return format!(
            "log in: `aws ecr get-login-password | docker login --username AWS --password-stdin {registry}`, or put \
             \"{registry}\": \"ecr-login\" under credHelpers; {rights}"
        );
    }
    format!("log in: `docker login {registry}`, or set BUSBAR_REGISTRY_USERNAME and BUSBAR_REGISTRY_PASSWORD; {rights}")
}

fn is_ecr(registry: &str) -> bool {
    registry.contains(".dkr.ecr") && registry.contains(".amazonaws.com")
}
