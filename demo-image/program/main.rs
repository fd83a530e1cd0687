//! The one program of Longshore's demo image: `/app COMMAND …`.
//!
//! It uses nothing but the standard library, so that it links statically and is the whole content of an image. A web
//! server shows what the container sees; the other commands behave well or badly in ways that a runtime must handle.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows how output is collected")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

mod http;
mod signals;
mod syscalls;
mod window;

const USAGE: &str = "\
usage: /app COMMAND

  serve [--port N] [--udp-port N] [--bind ADDRESS] [--note TEXT] [--ignore-term]
                            answer HTTP (port 8080), and echo datagrams; a note is for whoever reads /args
  tcp-echo PORT             send back what connections send
  udp-echo PORT             send back datagrams
  exit CODE [AFTER_MS]      end with that exit code
  eat BYTES                 take that much memory, and keep it
  spin                      keep a CPU busy
  fill PATH BYTES           write that many bytes to a file, and end
  print COUNT LINE...       print the lines COUNT times, on standard output and standard error in turn, and end
  cat [PATH]                print a file, or standard input, until its end
  args [WORD...]            print the program's own words, one a line, and end
  syscalls CALL...          make system calls, each NUMBER[,ARGUMENT...], and print the number of each one's error
  syscall-32                make one as a 32-bit program does
  orphan MS                 start another copy that sleeps, and end without it
  window                    print the size of the terminal's window for each line that is read
  sleep [MS]                do nothing, for ever if not told how long
";

/// Where the web server listens when not told.
const DEFAULT_PORT: u16 = 8080;
/// Bytes taken or written at a time.
const CHUNK: usize = 1024 * 1024;
/// Largest datagram that UDP can carry over IPv4.
const MAX_DATAGRAM: usize = 65_507;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match run(words.get(1..).unwrap_or_default()) {
        Ok(code) => code,
        Err(Trouble::Usage(message)) => {
            eprintln!("app: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Trouble::Failed(message)) => {
            eprintln!("app: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended badly.
#[derive(Debug, PartialEq)]
enum Trouble {
    /// It was called wrongly.
    Usage(String),
    /// It could not do its work.
    Failed(String),
}

impl Trouble {
    fn failed(what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

fn run(words: &[String]) -> Result<ExitCode, Trouble> {
    let Some((command, rest)) = words.split_first() else { return Err(Trouble::Usage("no command".into())) };
    signals::end_on_interrupt();
    if !rest.iter().any(|word| word == "--ignore-term") {
        signals::end_on_term();
    }
    match command.as_str() {
        "serve" => serve(&ServeOptions::parse(rest)?),
        "tcp-echo" => tcp_echo(argument(rest, 0, "PORT")?),
        "udp-echo" => udp_echo(Ipv4Addr::UNSPECIFIED.into(), argument(rest, 0, "PORT")?),
        "exit" => {
            let code: u8 = argument(rest, 0, "CODE")?;
            pause(Duration::from_millis(optional(rest, 1, "AFTER_MS")?.unwrap_or(0)));
            Ok(ExitCode::from(code))
        }
        "eat" => {
            let _held = eat(argument(rest, 0, "BYTES")?);
            forever()
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        "fill" => fill(&argument::<String>(rest, 0, "PATH")?, argument(rest, 1, "BYTES")?),
        "print" => print(argument(rest, 0, "COUNT")?, rest.get(1..).unwrap_or_default()),
        "cat" => cat(optional::<String>(rest, 0, "PATH")?.as_deref()),
        "args" => {
            for word in std::env::args() {
                println!("{word}");
            }
            Ok(ExitCode::SUCCESS)
        }
        "syscalls" => syscalls::make(rest).map(|()| ExitCode::SUCCESS),
        "syscall-32" => syscalls::make_as_32_bit().map(|()| ExitCode::SUCCESS),
        "orphan" => orphan(&argument::<String>(rest, 0, "MS")?),
        "window" => window::tell().map(|()| ExitCode::SUCCESS),
        "sleep" => match optional(rest, 0, "MS")? {
            Some(milliseconds) => {
                pause(Duration::from_millis(milliseconds));
                Ok(ExitCode::SUCCESS)
            }
            None => forever(),
        },
        other => Err(Trouble::Usage(format!("no such command: {other}"))),
    }
}

/// What `serve` was told.
#[derive(Debug, PartialEq)]
struct ServeOptions {
    bind: IpAddr,
    port: u16,
    udp_port: Option<u16>,
}

impl ServeOptions {
    fn parse(words: &[String]) -> Result<Self, Trouble> {
        let mut options = Self { bind: Ipv4Addr::UNSPECIFIED.into(), port: DEFAULT_PORT, udp_port: None };
        let mut at = 0;
        while let Some(word) = words.get(at) {
            match word.as_str() {
                "--bind" => options.bind = argument(words, at + 1, "--bind")?,
                "--port" => options.port = argument(words, at + 1, "--port")?,
                "--udp-port" => options.udp_port = Some(argument(words, at + 1, "--udp-port")?),
                "--note" => {
                    argument::<String>(words, at + 1, "--note")?;
                }
                "--ignore-term" => {
                    at += 1;
                    continue;
                }
                other => return Err(Trouble::Usage(format!("serve does not know {other}"))),
            }
            at += 2;
        }
        Ok(options)
    }
}

fn serve(options: &ServeOptions) -> Result<ExitCode, Trouble> {
    let address = SocketAddr::new(options.bind, options.port);
    let listener = TcpListener::bind(address).map_err(|error| Trouble::failed(address, &error))?;
    if let Some(port) = options.udp_port {
        let bind = options.bind;
        thread::spawn(move || {
            if let Err(Trouble::Failed(message) | Trouble::Usage(message)) = udp_echo(bind, port) {
                eprintln!("app: {message}");
            }
        });
    }
    println!("listening on {address}");
    http::serve(&listener);
    Ok(ExitCode::SUCCESS)
}

fn tcp_echo(port: u16) -> Result<ExitCode, Trouble> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address).map_err(|error| Trouble::failed(address, &error))?;
    println!("echoing on tcp {address}");
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
            Err(error) => eprintln!("app: cannot accept: {error}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn udp_echo(bind: IpAddr, port: u16) -> Result<ExitCode, Trouble> {
    let address = SocketAddr::new(bind, port);
    let socket = UdpSocket::bind(address).map_err(|error| Trouble::failed(address, &error))?;
    println!("echoing on udp {address}");
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        // An error here is a peer's: ICMP tells of an answer that nobody took.
        if let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], peer);
        }
    }
}

/// Takes memory and writes to all of it, since the kernel gives pages at the first write only.
fn eat(bytes: usize) -> Vec<Vec<u8>> {
    let mut held = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let next = left.min(CHUNK);
        held.push(vec![1; next]);
        left -= next;
    }
    println!("holding {bytes} bytes");
    held
}

fn fill(path: &str, bytes: u64) -> Result<ExitCode, Trouble> {
    let mut file = File::create(path).map_err(|error| Trouble::failed(path, &error))?;
    io::copy(&mut io::repeat(b'x').take(bytes), &mut file).map_err(|error| Trouble::failed(path, &error))?;
    println!("wrote {bytes} bytes to {path}");
    Ok(ExitCode::SUCCESS)
}

fn cat(path: Option<&str>) -> Result<ExitCode, Trouble> {
    let name = path.unwrap_or("standard input");
    let mut input: Box<dyn Read> = match path {
        Some(path) => Box::new(File::open(path).map_err(|error| Trouble::failed(name, &error))?),
        None => Box::new(io::stdin().lock()),
    };
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = input.read(&mut buffer).map_err(|error| Trouble::failed(name, &error))?;
        if length == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        // At once, for whoever waits for it before they send more.
        let written = out.write_all(&buffer[..length]).and_then(|()| out.flush());
        written.map_err(|error| Trouble::failed("cannot print", &error))?;
    }
}

fn print(count: u64, lines: &[String]) -> Result<ExitCode, Trouble> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    for (number, line) in (0..count).flat_map(|_| lines).enumerate() {
        let stream: &mut dyn Write = if number % 2 == 0 { &mut out } else { &mut err };
        writeln!(stream, "{line}").map_err(|error| Trouble::failed("cannot print", &error))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn orphan(milliseconds: &str) -> Result<ExitCode, Trouble> {
    let child = Command::new("/proc/self/exe").args(["sleep", milliseconds]).spawn();
    let child = child.map_err(|error| Trouble::failed("cannot start another", &error))?;
    println!("left {}", child.id());
    Ok(ExitCode::SUCCESS)
}

fn argument<T: FromStr>(words: &[String], at: usize, name: &str) -> Result<T, Trouble> {
    optional(words, at, name)?.ok_or_else(|| Trouble::Usage(format!("{name} is missing")))
}

fn optional<T: FromStr>(words: &[String], at: usize, name: &str) -> Result<Option<T>, Trouble> {
    let Some(word) = words.get(at).filter(|word| *word != "--ignore-term") else { return Ok(None) };
    word.parse().map(Some).map_err(|_| Trouble::Usage(format!("{name} cannot be {word:?}")))
}

fn pause(time: Duration) {
    if !time.is_zero() {
        thread::sleep(time);
    }
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn serve_takes_its_options_in_any_order() {
        let options = ServeOptions::parse(&words("--ignore-term --udp-port 53 --bind 127.0.0.1 --port 80"));
        assert_eq!(options, Ok(ServeOptions { bind: Ipv4Addr::LOCALHOST.into(), port: 80, udp_port: Some(53) }));
    }

    #[test]
    fn wrong_calls_are_told() {
        for line in ["", "dance", "exit", "exit 256", "serve --port", "serve --port x", "serve --loud", "fill /x"] {
            assert!(matches!(run(&words(line)), Err(Trouble::Usage(_))), "{line:?}");
        }
    }
}
