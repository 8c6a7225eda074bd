//! The command lines of manifests: which of our processes a container's command means.
//!
//! Understood: `python3 -m dynamo.frontend|vllm|mocker ARGS`, the same inside `/bin/sh -c "…"` (after `cd DIR &&`,
//! `exec` and `NAME=value`), and `busbar frontend|worker ARGS`. Nothing else: this is no shell.

use std::fmt;

/// A command line that we can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What to start.
    pub module: Module,
    /// Its arguments.
    pub args: Vec<String>,
    /// `NAME=value` before the command in a shell line.
    pub env: Vec<(String, String)>,
}

/// What a command line starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// `dynamo.frontend`.
    Frontend,
    /// `dynamo.vllm`.
    Vllm,
    /// `dynamo.mocker`.
    Mocker,
    /// `busbar worker`: the engine is chosen by flag.
    Worker,
}

/// A command line that is none of the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// What stood in the way.
    pub why: String,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for NotUnderstood {}

/// The shapes, for remedies.
pub const SHAPES: &str = "write `python3 -m dynamo.frontend|vllm|mocker ARGS`, the same in `/bin/sh -c \"…\"`, \
                          or `busbar frontend|worker ARGS`";

/// Reads a container's whole command line, command and arguments together.
///
/// # Errors
/// [`NotUnderstood`] names the word that fits no shape.
pub fn recognise(argv: &[String]) -> Result<Launch, NotUnderstood> {
    let Some((program, rest)) = argv.split_first() else {
        return Err(no("the command is empty"));
    };
    match base_name(program) {
        "python3" | "python" => python(rest),
        "sh" | "bash" | "dash" => shell(rest),
        "busbar" => busbar(rest),
        other => Err(no(format!("the program `{other}` is not ours to run"))),
    }
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn no(why: impl Into<String>) -> NotUnderstood {
    NotUnderstood { why: why.into() }
}

fn python(args: &[String]) -> Result<Launch, NotUnderstood> {
    // Interpreter switches that take no value and do not change what runs.
    let args = &args[args.iter().take_while(|a| matches!(a.as_str(), "-u" | "-B" | "-O" | "-s")).count()..];
    match args {
        [flag, module, rest @ ..] if flag == "-m" => {
            let module = match module.as_str() {
                "dynamo.frontend" => Module::Frontend,
                "dynamo.vllm" => Module::Vllm,
                "dynamo.mocker" => Module::Mocker,
                other => return Err(no(format!("the Python module `{other}` is not one that Busbar runs"))),
            };
            Ok(Launch { module, args: rest.to_vec(), env: Vec::new() })
        }
        [first, ..] => Err(no(format!("`python3 {first}` is no `python3 -m MODULE`"))),
        [] => Err(no("`python3` without `-m MODULE`")),
    }
}

fn busbar(args: &[String]) -> Result<Launch, NotUnderstood> {
    let (module, rest) = match args {
        [verb, rest @ ..] if verb == "frontend" => (Module::Frontend, rest),
        [verb, rest @ ..] if verb == "worker" => (Module::Worker, rest),
        _ => return Err(no("`busbar` in a container takes `frontend` or `worker`")),
    };
    Ok(Launch { module, args: rest.to_vec(), env: Vec::new() })
}

fn shell(args: &[String]) -> Result<Launch, NotUnderstood> {
    let [flag, line, ..] = args else {
        return Err(no("a shell is taken only as `-c \"COMMAND\"`"));
    };
    if !flag.starts_with('-') || !flag.ends_with('c') {
        return Err(no(format!("a shell is taken only as `-c \"COMMAND\"`, not `{flag}`")));
    }
    let words = shlex::split(line).ok_or_else(|| no("the shell line has an open quote"))?;
    let mut words = words.as_slice();
    if let [cd, _dir, and, rest @ ..] = words
        && cd == "cd"
        && and == "&&"
    {
        words = rest;
    }
    let mut env = Vec::new();
    while let Some((name, value)) = words.first().and_then(|word| assignment(word)) {
        env.push((name.to_owned(), value.to_owned()));
        words = &words[1..];
    }
    if words.first().is_some_and(|word| word == "exec") {
        words = &words[1..];
    }
    if let Some(operator) = words.iter().find(|word| is_operator(word)) {
        return Err(no(format!("`{operator}` in a shell line needs a real shell")));
    }
    let launch = recognise(words)?;
    Ok(Launch { env, ..launch })
}

fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    valid.then_some((name, value))
}

fn is_operator(word: &str) -> bool {
    matches!(word, "&&" | "||" | "|" | ";" | "&" | ">" | ">>" | "<" | "2>&1")
        || word.ends_with(';')
        || word.contains("$(")
        || word.contains('`')
}

/// Expands Kubernetes' `$(NAME)` by `lookup`; an unknown name stays as it is, `$$` is a dollar.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        shlex::split(line).unwrap()
    }

    fn check(line: &str, expected: Result<(Module, &str), &str>) {
        let got = recognise(&words(line));
        match (got, expected) {
            (Ok(launch), Ok((module, args))) => {
                assert_eq!((launch.module, launch.args), (module, words(args)), "{line}");
            }
            (Err(error), Err(part)) => assert!(error.why.contains(part), "{line}: {}", error.why),
            (got, _) => panic!("{line}: {got:?}"),
        }
    }

    #[test]
    fn the_documented_line_shapes_are_understood() {
        check("python3 -m dynamo.frontend", Ok((Module::Frontend, "")));
        check("/usr/bin/python3 -u -m dynamo.vllm --model m", Ok((Module::Vllm, "--model m")));
        check("/bin/sh -c 'python3 -m dynamo.mocker --num-workers 1'", Ok((Module::Mocker, "--num-workers 1")));
        check("bash -ec 'cd /workspace && exec python3 -m dynamo.vllm --x \"a b\"'", Ok((Module::Vllm, "--x 'a b'")));
        check("busbar worker --engine mock", Ok((Module::Worker, "--engine mock")));
    }

    #[test]
    fn anything_else_is_refused_with_the_word_that_does_not_fit() {
        check("node server.js", Err("`node`"));
        check("python3 -m dynamo.sglang", Err("`dynamo.sglang`"));
        check("python3 script.py", Err("`python3 script.py`"));
        check("sh -c 'python3 -m dynamo.vllm | tee log'", Err("`|`"));
        check("sh -c 'python3 -m dynamo.vllm; sleep 1'", Err("real shell"));
        check("sh script.sh", Err("-c"));
        check("busbar operator", Err("frontend"));
    }

    #[test]
    fn assignments_before_the_command_become_environment() {
        let launch = recognise(&words("sh -c 'A=1 B_2=x python3 -m dynamo.vllm'")).unwrap();
        assert_eq!(launch.env, [("A".into(), "1".into()), ("B_2".into(), "x".into())]);
    }

    #[test]
    fn variables_expand_as_kubernetes_does() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("a$", "a$"), ("$(A", "$(A"), ("x", "x")] {
            assert_eq!(expand(text, &lookup), expected, "{text}");
        }
    }
}
