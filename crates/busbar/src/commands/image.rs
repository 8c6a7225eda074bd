//! `busbar image push` and `busbar image save`: this very binary as a container image.

use super::runtime;
use crate::cli::{ImageFlags, Output};
use crate::folders;
use crate::progress::Progress as Shown;
use crate::report::Failure;
use deploy::image::{self, ImageError, Login, Options, PackedLayer, Progress};
use indicatif::HumanBytes;
use std::cell::RefCell;
use std::path::Path;

/// Packs and pushes.
pub(crate) fn push(reference: &str, base: Option<String>, flags: &ImageFlags, output: Output) -> Result<(), Failure> {
    let options = Options { base, ..options(flags)? };
    let shown = RefCell::new(Shown::new(output == Output::Json));
    let tell = |progress: Progress| show(&shown, &progress);
    let pushed = runtime(None)?.block_on(image::push(reference, &options, &tell)).map_err(|e| failed("push", &e))?;
    shown.borrow_mut().done();
    if output == Output::Json {
        println!("{}", serde_json::json!(pushed));
        return Ok(());
    }
    match pushed.sent_bytes {
        0 => println!("{} is there already, nothing was sent", pushed.reference),
        sent => println!("{} is pushed, {} sent", pushed.reference, HumanBytes(sent)),
    }
    println!("  pinned     {}", pushed.pinned);
    println!("  to pull    {}", HumanBytes(pushed.bytes));
    print_layers(&pushed.layers);
    if options.base.is_none() {
        print_certificates(pushed.certificates.as_deref());
    }
    Ok(())
}

/// Packs and writes a file.
pub(crate) fn save(file: &Path, name: Option<&str>, flags: &ImageFlags, output: Output) -> Result<(), Failure> {
    let options = options(flags)?;
    let shown = RefCell::new(Shown::new(output == Output::Json));
    let tell = |progress: Progress| show(&shown, &progress);
    let saved = runtime(None)?.block_on(image::save(file, name, &options, &tell)).map_err(|e| failed("save", &e))?;
    shown.borrow_mut().done();
    if output == Output::Json {
        println!("{}", serde_json::json!(saved));
        return Ok(());
    }
    println!("{} is in {} ({})", saved.reference, saved.file.display(), HumanBytes(saved.bytes));
    println!("  digest     {}", saved.digest);
    print_layers(&saved.layers);
    print_certificates(saved.certificates.as_deref());
    println!("  next       ctr -n k8s.io images import {}", saved.file.display());
    Ok(())
}

/// The options that flags and environment give; the binary is the one that runs.
pub(crate) fn options(flags: &ImageFlags) -> Result<Options, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new("find the file of this program").cause(error.to_string()))?;
    Ok(Options { program, base: None, plain_http: flags.plain_http, strip: flags.strip, login: login()? })
}

/// Who we are to registries: `BUSBAR_REGISTRY_USERNAME` and `BUSBAR_REGISTRY_PASSWORD`, else what `docker login` left.
fn login() -> Result<Login, Failure> {
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let given = match (text("BUSBAR_REGISTRY_USERNAME"), text("BUSBAR_REGISTRY_PASSWORD")) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        _ => {
            return Err(Failure::new("read the login for the registry")
                .cause("of BUSBAR_REGISTRY_USERNAME and BUSBAR_REGISTRY_PASSWORD only one is set")
                .remedy("set both, or none to use what `docker login` left")
                .permanent());
        }
    };
    let (docker_config, home) = (folders::path("DOCKER_CONFIG"), folders::path("HOME"));
    Ok(Login { given, file: image::docker_file(docker_config.as_deref(), home.as_deref()) })
}

fn show(shown: &RefCell<Shown>, progress: &Progress) {
    show_on(&mut shown.borrow_mut(), progress);
}

/// Shows how far packing and pushing are.
pub(crate) fn show_on(shown: &mut Shown, progress: &Progress) {
    match progress {
        Progress::Pack => shown.stage("packing the binary and its libraries", None, None),
        Progress::ReadBase { base } => shown.stage(&format!("reading {base}"), None, None),
        Progress::Present { what, bytes } => {
            shown.stage(&format!("the {what} is there already ({})", HumanBytes(*bytes)), None, None);
        }
        Progress::Send { what, done, total } => shown.stage(&format!("sending the {what}"), Some(*done), Some(*total)),
    }
}

fn print_layers(layers: &[PackedLayer]) {
    for layer in layers {
        println!("  {:<10} {} {}", layer.name, layer.digest, HumanBytes(layer.bytes));
    }
}

fn print_certificates(file: Option<&Path>) {
    match file.map(Path::display) {
        Some(file) => println!("  trusted    the authorities of {file}"),
        None => println!(
            "  trusted    no certificate authority: this machine has none, so the image reaches nothing over TLS; \
             install ca-certificates and pack again"
        ),
    }
}

/// A failure of making or pushing an image.
pub(crate) fn failed(act: &str, error: &ImageError) -> Failure {
    let failure = Failure::new(format!("{act} the image")).chain(error).remedy(error.remedy());
    if error.may_heal() { failure } else { failure.permanent() }
}
