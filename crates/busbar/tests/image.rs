//! The image as a file: packed twice it is the same; unpacked, its binary runs on nothing but what the image holds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{CAP, Machine, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Saves the image and gives what the command said.
fn save(machine: &Machine, file: &Path, more: &[&str]) -> Value {
    let file = file.to_string_lossy();
    let args: Vec<&str> = ["image", "save", &file, "-o", "json"].into_iter().chain(more.iter().copied()).collect();
    let ended = machine.run(&args);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    serde_json::from_str(ended.out.trim()).unwrap()
}

/// The parts of a saved image, by path.
fn parts(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
    let part = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path, bytes)
    };
    archive.entries().unwrap().map(part).collect()
}

fn blob<'a>(parts: &'a BTreeMap<String, Vec<u8>>, digest: &Value) -> &'a [u8] {
    &parts[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))]
}

/// Unpacks the image's layers into `root`.
fn unpack(parts: &BTreeMap<String, Vec<u8>>, root: &Path) -> Value {
    let index: Value = serde_json::from_slice(&parts["index.json"]).unwrap();
    let manifest: Value = serde_json::from_slice(blob(parts, &index["manifests"][0]["digest"])).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let layer = flate2::read::GzDecoder::new(blob(parts, &layer["digest"]));
        tar::Archive::new(layer).unpack(root).unwrap();
    }
    serde_json::from_slice(blob(parts, &manifest["config"]["digest"])).unwrap()
}

#[test]
fn the_same_binary_is_the_same_image_and_only_the_binarys_layer_follows_the_binary() {
    let machine = Machine::new();
    let (first, second) = (machine.home().join("first.tar"), machine.home().join("second.tar"));
    let said = save(&machine, &first, &[]);
    assert_eq!(said["digest"], save(&machine, &second, &[])["digest"]);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(), "the files differ");
    // Another binary: this one, with a byte behind all that is loaded.
    let other = machine.home().join("other");
    std::fs::copy(env!("CARGO_BIN_EXE_busbar"), &other).unwrap();
    std::fs::OpenOptions::new().append(true).open(&other).unwrap().write_all(b"!").unwrap();
    let output = machine.command(&other).args(["image", "save", "-o", "json"]).arg(&second).output().unwrap();
    let changed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let digests = |said: &Value| {
        let layers = said["layers"].as_array().unwrap().iter();
        layers.map(|layer| (layer["name"].clone(), layer["digest"].clone())).collect::<Vec<_>>()
    };
    let (before, after) = (digests(&said), digests(&changed));
    assert_eq!((&before[0].0, &before[1].0), (&"libraries".into(), &"binary".into()));
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
}

#[test]
fn the_unpacked_image_runs_on_its_own_loader_and_libraries() {
    let machine = Machine::new();
    let file = machine.home().join("image.tar");
    let whole = save(&machine, &file, &[])["bytes"].as_u64().unwrap();
    let stripped = machine.home().join("stripped.tar");
    assert!(save(&machine, &stripped, &["--strip"])["bytes"].as_u64().unwrap() < whole);
    for file in [&file, &stripped] {
        let root = machine.home().join(file.file_stem().unwrap()).join("root");
        std::fs::create_dir_all(&root).unwrap();
        let config = unpack(&parts(file), &root);
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/busbar");
        // What a container finds: names of ours, and a user.
        for name in ["bin/sh", "bin/bash", "usr/bin/python3", "usr/bin/python"] {
            assert_eq!(std::fs::read_link(root.join(name)).unwrap(), Path::new("/usr/bin/busbar"), "{name}");
        }
        assert!(std::fs::read_to_string(root.join("etc/passwd")).unwrap().contains("busbar:x:1000:1000:"));
        assert!(root.join("etc/ssl/certs/ca-certificates.crt").is_file());
        assert!(root.join("workspace").is_dir() && root.join("tmp").is_dir());
        // The image's loader and libraries, none of the machine's.
        let libraries = root.join("usr/lib/busbar");
        let loader = || {
            let mut command = machine.command(libraries.join("ld.so"));
            command.args(["--inhibit-cache", "--library-path"]).arg(&libraries);
            command
        };
        let listed = loader().arg("--list").arg(root.join("usr/bin/busbar")).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let found: Vec<_> = listed.lines().filter(|line| line.contains("=>")).collect();
        assert!(found.len() >= 4, "{listed}");
        let own = |line: &&str| line.contains(&*libraries.to_string_lossy());
        assert!(found.iter().all(own), "{listed}");
        let version = loader().arg(root.join("usr/bin/busbar")).arg("--version").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), concat!("busbar ", env!("CARGO_PKG_VERSION")));
        let shell = loader()
            .args(["--argv0", "/bin/sh"])
            .arg(root.join("usr/bin/busbar"))
            .args(["-c", "python3 -m dynamo.frontend --no-such-flag"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&shell.stderr).into_owned();
        assert!(said.contains("`--no-such-flag` is no flag of a frontend here"), "{said}");
    }
}

#[test]
fn a_line_of_python_that_is_not_ours_goes_to_the_python_behind_us() {
    let machine = Machine::new();
    let (ours, theirs) = (machine.home().join("ours"), machine.home().join("theirs"));
    for folder in [&ours, &theirs] {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_busbar"), ours.join("python3")).unwrap();
    let script = "#!/bin/sh\necho \"the other python: $0 $*\"\n";
    std::fs::write(theirs.join("python3"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(theirs.join("python3"), mode).unwrap();
    let run = |path: &[&Path], args: &[&str]| {
        let path = std::env::join_paths(path).unwrap();
        let output =
            machine.command(ours.join("python3")).arg0("python3").args(args).env("PATH", path).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, err) = run(&[&ours, &theirs], &["-c", "import vllm"]);
    let expected = format!("the other python: {} -c import vllm\n", theirs.join("python3").display());
    assert_eq!((out, err.as_str()), (expected, ""));
    // What is Dynamo's is ours, or nobody's.
    let (out, err) = run(&[&ours, &theirs], &["-m", "dynamo.planner"]);
    assert!(out.is_empty() && err.contains("`dynamo.planner` is not one that Busbar runs"), "{out} {err}");
    let (out, err) = run(&[&ours], &["-c", "import vllm"]);
    assert!(out.is_empty() && err.contains("is no `python3 -m MODULE`"), "{out} {err}");
}

#[test]
fn a_name_or_a_login_that_is_wrong_is_refused_before_anything_is_packed() {
    let machine = Machine::new();
    let ended = machine.run(&["image", "push", "busbar"]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("`busbar` names no image") && ended.err.contains("remedy: write REGISTRY/NAME:TAG"));
    let only_user =
        machine.busbar().args(["image", "push", "r.example/x:1"]).env("BUSBAR_REGISTRY_USERNAME", "u").output();
    let said = String::from_utf8_lossy(&only_user.unwrap().stderr).into_owned();
    assert!(said.contains("only one is set"), "{said}");
    let nobody = machine.run(&["image", "push", "127.0.0.1:1/x/y:1"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.err);
    assert!(
        nobody.err.contains("reach the registry 127.0.0.1:1: ") && nobody.err.contains("a route to it"),
        "{}",
        nobody.err
    );
}

#[test]
fn variables_that_a_shell_line_sets_hold_for_its_command() {
    let machine = Machine::new();
    let run = |line: &str| {
        let mut shell = machine.busbar();
        let mut shell = shell.arg0("/bin/sh").args(["-c", line]).stderr(Stdio::piped()).spawn().unwrap();
        // Without the variable it would serve, and never end.
        let begun = Instant::now();
        while shell.try_wait().unwrap().is_none() && begun.elapsed() < CAP {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = shell.kill();
        String::from_utf8_lossy(&shell.wait_with_output().unwrap().stderr).into_owned()
    };
    let said = run("DYN_HTTP_PORT=none exec python3 -m dynamo.frontend");
    assert!(said.contains("'none'") && said.contains("--http-port"), "{said}");
    let said = run("DYN_SYSTEM_PORT=none busbar worker --engine mock");
    assert!(said.contains("'none'") && said.contains("--system-port"), "{said}");
}

#[test]
fn processes_that_an_engine_leaves_behind_are_reaped_while_it_runs() {
    let machine = Machine::new();
    let file = machine.home().join("orphan");
    let line = format!("(sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600' &); exec sleep 600", file.display());
    let mut command = machine.busbar();
    command.args(["keep-engine", "sh", "-c", &line]).stdin(Stdio::piped()).process_group(0);
    let mut keeper = command.spawn().unwrap();
    until("the orphan has begun", || file.exists().then_some(()));
    let orphan = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let status = || std::fs::read_to_string(format!("/proc/{orphan}/status")).unwrap_or_default();
    let parent = format!("PPid:\t{}\n", keeper.id());
    until("the keeper is the orphan's parent", || status().contains(&parent).then_some(()));
    assert!(Command::new("kill").arg(&orphan).status().unwrap().success());
    until("nothing of it is left, not even a zombie", || status().is_empty().then_some(()));
    assert!(keeper.try_wait().unwrap().is_none(), "the engine itself goes on");
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
}

#[test]
fn the_login_comes_from_dockers_helper_and_a_refusal_names_the_registry_and_the_remedy() {
    let machine = Machine::new();
    let registry = registry::start();
    let reference = format!("{registry}/team/busbar:1");
    let push = |machine: &Machine| ended(machine.busbar().args(["image", "push", &reference]));
    let anonymous = push(&machine);
    assert!(anonymous.contains(&format!("the registry {registry} does not let an anonymous user push to team/busbar")));
    assert!(anonymous.contains(&format!("docker login {registry}")), "{anonymous}");
    let given = |password: &str| {
        let mut command = machine.busbar();
        command.env("BUSBAR_REGISTRY_USERNAME", "ada").env("BUSBAR_REGISTRY_PASSWORD", password);
        ended(command.args(["image", "push", &reference]))
    };
    let wrong = given("wrong");
    assert!(wrong.contains("does not let the user `ada` push") && !wrong.contains("wrong"), "{wrong}");
    let unknown = "does not have team/busbar:1";
    let right = given(registry::PASSWORD);
    assert!(right.contains(unknown), "{right}");
    // What `docker login` leaves where a helper keeps the secrets.
    std::fs::create_dir(machine.home().join(".docker")).unwrap();
    machine.file(".docker/config.json", &format!("{{\"credHelpers\": {{\"{registry}\": \"busbar-test\"}}}}"));
    let script =
        format!("#!/bin/sh\ncat > asked\necho '{{\"Username\":\"ada\",\"Secret\":\"{}\"}}'\n", registry::PASSWORD);
    let helper = machine.file("docker-credential-busbar-test", &script);
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", machine.home().display(), std::env::var("PATH").unwrap());
    let helped = ended(machine.busbar().args(["image", "push", &reference]).env("PATH", path));
    assert!(helped.contains(unknown), "{helped}");
    assert_eq!(std::fs::read_to_string(machine.home().join("asked")).unwrap(), registry);
}

/// What a command that fails says.
fn ended(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A registry that knows one user and no repository.
mod registry {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    pub(crate) const PASSWORD: &str = "s3cret";
    /// `ada:s3cret` in base64.
    const LOGIN: &str = "authorization: Basic YWRhOnMzY3JldA==";
    const UNKNOWN: &str = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}"#;

    /// Its address. It ends with the test's process.
    pub(crate) fn start() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
        address
    }

    fn serve(mut stream: TcpStream) {
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let Some(first) = head.first() else { return };
        let is_known = head.iter().any(|line| line.eq_ignore_ascii_case(LOGIN) && line.ends_with(&LOGIN[22..]));
        let (status, body) = match first.as_str() {
            line if line.starts_with("GET /v2/ ") || !is_known => ("401 Unauthorized", ""),
            line if line.starts_with("HEAD ") => ("404 Not Found", ""),
            _ => ("404 Not Found", UNKNOWN),
        };
        let length = body.len();
        let asks = "www-authenticate: Basic realm=\"test\"";
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\n{asks}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
    }
}
