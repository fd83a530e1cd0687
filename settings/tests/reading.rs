//! Flags, variables and a file together.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use longshore_settings::{Origin, Program, Reading};

#[derive(Debug, Parser)]
struct Line {
    #[arg(long, global = true, default_value = "info", env = "T_LOG")]
    log: String,
    #[arg(long, global = true, env = "T_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Below,
}

#[derive(Debug, Subcommand)]
enum Below {
    Run(Run),
    Copy(Copy),
}

#[derive(Debug, Args)]
struct Run {
    #[arg(long, default_value = "/data", env = "T_DIR")]
    dir: PathBuf,
    #[arg(long, default_value_t = 1, env = "T_COUNT")]
    count: u16,
    #[arg(long, value_enum, default_value_t = Color::Red)]
    color: Color,
    #[arg(long, env = "T_LOUD", conflicts_with = "color")]
    loud: bool,
    #[arg(long, env = "T_ORIGIN")]
    origin: Vec<String>,
    #[arg(long, env = "T_SECRET", hide_env_values = true)]
    secret: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    Red,
    Blue,
}

#[derive(Debug, Args)]
struct Copy {
    #[arg(long, default_value = "/data", env = "T_DIR")]
    dir: PathBuf,
    #[arg(long)]
    to: String,
}

struct World {
    directory: tempfile::TempDir,
    variables: HashMap<&'static str, &'static str>,
}

impl World {
    fn new(file: &str, variables: &[(&'static str, &'static str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("t.yaml"), file).unwrap();
        Self { directory, variables: variables.iter().copied().collect() }
    }

    fn file(&self) -> String {
        self.directory.path().join("t.yaml").display().to_string()
    }

    fn try_read(&self, words: &str) -> Result<Reading, clap::Error> {
        let program = Program {
            command: Line::command(),
            settings_of: Some("run"),
            default_file: self.directory.path().join("t.yaml"),
        };
        let line = std::iter::once("t").chain(words.split_whitespace()).map(OsString::from);
        program.read(line, |name| self.variables.get(name).map(OsString::from))
    }

    fn run(&self, words: &str) -> (Run, String) {
        let reading = self.try_read(words).unwrap();
        assert_eq!(reading.mistakes.0, Vec::<String>::new());
        let line = Line::from_arg_matches(&reading.matches.unwrap()).unwrap();
        match line.command {
            Below::Run(run) => (run, line.log),
            Below::Copy(_) => unreachable!("run was asked for"),
        }
    }

    fn mistakes(&self, words: &str) -> Vec<String> {
        let all = self.try_read(words).unwrap().mistakes.0;
        all.into_iter().map(|mistake| mistake.replace(&self.file(), "FILE")).collect()
    }
}

#[test]
fn flags_come_before_variables_before_the_file_before_defaults() {
    let file = "dir: /file\ncount: 4\ncolor: blue\nlog: debug\n";
    let (run, log) = World::new(file, &[("T_DIR", "/variable"), ("T_COUNT", "3")]).run("run --count 2");
    assert_eq!((run.dir, run.count, run.color, log.as_str()), ("/variable".into(), 2, Color::Blue, "debug"));
    let (run, log) = World::new("", &[]).run("run");
    assert_eq!((run.dir, run.count, run.color, log.as_str()), ("/data".into(), 1, Color::Red, "info"));
    assert_eq!((run.loud, run.origin.len(), run.secret), (false, 0, None));
}

#[test]
fn switches_and_lists_are_read_everywhere() {
    let (run, _) = World::new("loud: true\norigin: [a, b]\n", &[]).run("run");
    assert_eq!((run.loud, run.origin), (true, vec!["a".to_owned(), "b".to_owned()]));
    let (run, _) = World::new("loud: true\norigin: a\n", &[("T_LOUD", "false"), ("T_ORIGIN", "c, d")]).run("run");
    assert_eq!((run.loud, run.origin), (false, vec!["c".to_owned(), "d".to_owned()]));
    let (run, _) = World::new("origin: a\n", &[]).run("run --loud --origin e --origin f");
    assert_eq!((run.loud, run.origin), (true, vec!["e".to_owned(), "f".to_owned()]));
}

#[test]
fn every_mistake_is_told_with_where_it_is() {
    let file = "# settings\ncount: many\nport: 1\ncolor: green\norigin: {a: b}\nsecret: hush\n";
    let world = World::new(file, &[("T_LOUD", "very")]);
    let expected = [
        "FILE:3:1: there is no setting \"port\"; there are color, count, dir, log, loud, origin, secret",
        "--count \"70000\": 70000 is not in 0..=65535",
        "FILE:4:1: color \"green\": not one of red, blue",
        "T_LOUD \"very\": not one of true, false",
        "FILE:5:1: origin: must be a text or a list of texts",
        "FILE:6:1: secret: invalid digit found in string",
    ];
    assert_eq!(world.mistakes("run --count 70000"), expected);
    let reading = world.try_read("run --count 70000").unwrap();
    assert!(reading.matches.is_some(), "what is right can be checked further");
    assert!(!reading.origins.is_good("count") && reading.origins.is_good("dir"));
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let cases = [("count: [1\n", "FILE:"), ("count: 1\ncount: 2\n", "FILE:2:1:"), ("- count\n", "FILE:1:1:")];
    for (file, start) in cases {
        let mistakes = World::new(file, &[]).mistakes("run");
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(start), "{file}: {mistakes:?}");
    }
    let world = World::new("", &[]);
    let missing = world.directory.path().join("none.yaml").display().to_string();
    assert_eq!(world.mistakes(&format!("run --config {missing}")), [format!("{missing}: there is no such file")]);
    std::fs::remove_file(world.file()).unwrap();
    assert_eq!(world.mistakes("run"), Vec::<String>::new(), "the usual file need not be there");
}

#[test]
fn other_commands_take_the_settings_that_they_share() {
    let world = World::new("dir: /file\ncount: bad\n", &[]);
    let reading = world.try_read("copy --to there").unwrap();
    assert_eq!(reading.mistakes.0, Vec::<String>::new(), "count is none of its business");
    let Below::Copy(copy) = Line::from_arg_matches(&reading.matches.unwrap()).unwrap().command else {
        unreachable!("copy was asked for")
    };
    assert_eq!((copy.dir, copy.to), (PathBuf::from("/file"), "there".to_owned()));
    world.try_read("copy").unwrap_err();
    world.try_read("run --port 1").unwrap_err();
}

#[test]
fn what_is_right_holds_beside_what_is_wrong() {
    let world = World::new("dir: /file\ncolor: green\n", &[]);
    let reading = world.try_read("--log debug run --loud --count x --origin a --origin=b").unwrap();
    assert_eq!(reading.mistakes.0.len(), 2, "{:?}", reading.mistakes);
    let line = Line::from_arg_matches(&reading.matches.unwrap()).unwrap();
    let Below::Run(run) = line.command else { unreachable!("run was asked for") };
    assert_eq!((run.dir, run.count, run.loud, line.log.as_str()), (PathBuf::from("/file"), 1, true, "debug"));
    assert_eq!(run.origin, ["a", "b"]);
    // What is no setting holds as well.
    let world = World::new("dir: [/file]\n", &[]);
    let reading = world.try_read("copy --to there").unwrap();
    assert_eq!(reading.mistakes.0.len(), 1);
    let Below::Copy(copy) = Line::from_arg_matches(&reading.matches.unwrap()).unwrap().command else {
        unreachable!("copy was asked for")
    };
    assert_eq!((copy.dir, copy.to), (PathBuf::from("/data"), "there".to_owned()));
}

#[test]
fn what_is_shown_can_be_read_again_and_hides_secrets() {
    let file = "dir: /with blank\norigin: ['a: b', \"c'd\"]\nsecret: 7\n";
    let world = World::new(file, &[("T_COUNT", "3")]);
    let shown = world.try_read("run --log debug").unwrap().origins.to_string();
    let expected = "color: red  # default\n\
                    count: 3  # T_COUNT\n\
                    dir: '/with blank'  # FILE:1\n\
                    log: debug  # --log\n\
                    # loud: not set\n\
                    origin: ['a: b', 'c''d']  # FILE:2\n\
                    # secret: hidden  # FILE:3\n";
    assert_eq!(shown.replace(&world.file(), "FILE"), expected);
    let again = World::new(&shown, &[]);
    let (run, log) = again.run("run");
    assert_eq!((run.dir, run.count, log.as_str()), ("/with blank".into(), 3, "debug"));
    assert_eq!(run.origin, ["a: b", "c'd"]);
    let origins = again.try_read("run").unwrap().origins;
    assert!(matches!(origins.get("dir").unwrap().origin, Origin::File { line: 3, .. }));
}

#[test]
fn help_names_defaults_and_variables() {
    let world = World::new("", &[]);
    for words in ["run --help", "run -h"] {
        let help = world.try_read(words).unwrap_err().to_string();
        for word in ["[env: T_DIR=", "[default: /data]", "[possible values: red, blue]"] {
            assert!(help.contains(word), "{word} is not in {help}");
        }
    }
}
