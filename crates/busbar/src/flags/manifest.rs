//! Arguments of manifests: below the environment in rank, and with flags that are not ours.

use clap::{ArgAction, Command};

/// A command line split by what `command` knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Flags and values that `command` takes.
    pub(crate) known: Vec<String>,
    /// Everything else, in order.
    pub(crate) unknown: Vec<String>,
}

/// Splits `args` into what `command` knows and the rest.
///
/// With `environment_wins`, a known flag is left out when its environment variable is set: a manifest's argument is
/// below the environment in rank, while a flag that a person types is above it.
pub(crate) fn split(command: &Command, args: &[String], environment_wins: bool) -> Split {
    let mut split = Split::default();
    let mut rest = args.iter().peekable();
    while let Some(word) = rest.next() {
        let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            // `-h` and `-V` are clap's; any other lone word belongs to the flag before it.
            let own = word == "-h" || word == "-V";
            if own { &mut split.known } else { &mut split.unknown }.push(word.clone());
            continue;
        };
        let name = flag.split_once('=').map_or(flag, |(name, _)| name);
        let known = if name == "help" { None } else { find(command, name) };
        let takes_value = known.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append));
        // Python's argparse users write `_` for `-`; clap knows only the one form.
        let spelled = if known.is_some() { word.replacen(name, &name.replace('_', "-"), 1) } else { word.clone() };
        let mut words = vec![spelled];
        // A value that follows: always for a known flag with one, for an unknown flag unless it looks like a flag.
        let follows = !flag.contains('=')
            && rest.peek().is_some_and(|next| if known.is_some() { takes_value } else { !next.starts_with('-') });
        if follows {
            words.extend(rest.next().cloned());
        }
        match known {
            None if name == "help" => split.known.append(&mut words),
            None => split.unknown.append(&mut words),
            Some(arg) if environment_wins && arg.get_env().is_some_and(|env| std::env::var_os(env).is_some()) => {}
            Some(_) => split.known.append(&mut words),
        }
    }
    split
}

fn find<'a>(command: &'a Command, long: &str) -> Option<&'a clap::Arg> {
    let long = long.replace('_', "-");
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(&long) || arg.get_all_aliases().is_some_and(|names| names.contains(&long.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        Command::new("worker")
            .arg(Arg::new("model").long("model").visible_alias("model-path").env("BUSBAR_TEST_UNSET_MODEL"))
            .arg(Arg::new("home").long("home").env("HOME"))
            .arg(Arg::new("fast").long("fast").action(ArgAction::SetTrue))
    }

    fn check(line: &str, environment_wins: bool, known: &str, unknown: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let expected = Split { known: words(known), unknown: words(unknown) };
        assert_eq!(split(&command(), &words(line), environment_wins), expected, "{line}");
    }

    #[test]
    fn flags_that_are_not_ours_keep_their_values_and_order() {
        check("--tp 2 --model m --enforce-eager --x=1", false, "--model m", "--tp 2 --enforce-eager --x=1");
        check("--enforce-eager --model-path m", false, "--model-path m", "--enforce-eager");
        check("--fast --tp 2", false, "--fast", "--tp 2");
        check("--model=-1", false, "--model=-1", "");
        check("--model_path m", false, "--model-path m", "");
    }

    #[test]
    fn the_environment_outranks_a_manifests_argument_and_not_a_typed_flag() {
        check("--home h --model m", true, "--model m", "");
        check("--home h --model m", false, "--home h --model m", "");
    }
}
