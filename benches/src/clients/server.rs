//! Debian's redis and nginx, each as one thread on the first core, and clients
//! on the second that ask for little, so that system calls are most of the
//! work. It knows no tool.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Program, World, wait};

const SERVERS_CORE: &str = "0";
const CLIENTS_CORE: &str = "1";
const CONNECTIONS: &str = "8";
const REDIS_REQUESTS: u32 = 20_000;
const LONGEST_START: Duration = Duration::from_secs(20);

/// What runs and how it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// redis, GET of a missing key by a Unix socket, one command at a time.
    Redis,
    /// nginx, `200` with two bytes by HTTP on connections that stay.
    Http,
    /// The same by HTTPS.
    Https,
}

/// A server under no load.
pub struct Server {
    kind: Kind,
    program: Program,
    /// The socket, or the port.
    at: String,
    _home: tempfile::TempDir,
}

/// What a moment under load cost.
pub struct Cost {
    /// Requests a second, as the client has it.
    pub rate: f64,
    /// Nanoseconds of the server's processor time for a request.
    pub request_ns: f64,
}

impl Server {
    /// Starts it, without any tracing, as the ordinary user.
    pub fn start(kind: Kind, world: &World) -> Result<Server> {
        let home = tempfile::Builder::new()
            .prefix("bpftime-server-")
            .tempdir()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        chown(home.path(), Some(world.uid()), None)?;
        let dir = home.path();
        let (words, at) = match kind {
            Kind::Redis => redis(dir),
            Kind::Http | Kind::Https => nginx(dir, kind == Kind::Https)?,
        };
        let mut all = vec![
            "taskset".to_owned(),
            "-c".to_owned(),
            SERVERS_CORE.to_owned(),
        ];
        all.extend(words);
        let server = Server {
            kind,
            program: Program::on_pipes(world.plain(&all)),
            at,
            _home: home,
        };
        wait::until_true("the server answers", LONGEST_START, || {
            server.ask("1").is_ok_and(|output| output.status.success())
        });
        Ok(server)
    }

    /// Its process id, and its only busy thread's.
    pub fn pid(&self) -> i32 {
        self.program.pid()
    }

    /// Puts it under load for a moment.
    pub fn load(&self) -> Result<Cost> {
        let before = self.processor_ns()?;
        let output = self.ask(&REDIS_REQUESTS.to_string())?;
        let spent = self.processor_ns()? - before;
        ensure!(output.status.success(), "the client: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let (requests, rate) = match self.kind {
            Kind::Redis => redis_benchmark(&text),
            Kind::Http | Kind::Https => wrk(&text),
        }
        .with_context(|| format!("what the client says:\n{text}"))?;
        Ok(Cost {
            rate,
            request_ns: spent / requests,
        })
    }

    /// One run of the client.
    fn ask(&self, requests: &str) -> Result<Output> {
        let url = match self.kind {
            Kind::Redis => String::new(),
            Kind::Http => format!("http://127.0.0.1:{}/", self.at),
            Kind::Https => format!("https://127.0.0.1:{}/", self.at),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", CLIENTS_CORE]);
        match self.kind {
            Kind::Redis => command
                .args(["redis-benchmark", "-s", &self.at, "-c", CONNECTIONS])
                .args(["-n", requests, "-P", "1", "-t", "get", "--csv"]),
            // It refuses less than a second.
            _ => command.args(["wrk", "-t1", "-c", CONNECTIONS, "-d1s", &url]),
        };
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Processor time of its thread so far: the first word of
    /// `/proc/PID/schedstat` (Documentation/scheduler/sched-stats.rst).
    fn processor_ns(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid()))?;
        let word = text.split_whitespace().next().context("schedstat")?;
        Ok(word.parse()?)
    }
}

fn redis(dir: &Path) -> (Vec<String>, String) {
    let socket = dir.join("socket").display().to_string();
    let dir = dir.display().to_string();
    let words = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        &socket,
        "--unixsocketperm",
        "777",
        "--save",
        "",
        "--dir",
        &dir,
    ];
    (words.map(str::to_owned).to_vec(), socket)
}

fn nginx(dir: &Path, secure: bool) -> Result<(Vec<String>, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = dir.join("nginx.conf");
    let [key, certificate] = [dir.join("key"), dir.join("certificate")];
    let tls = if secure {
        self_signed(&key, &certificate)?;
        let (key, certificate) = (key.display(), certificate.display());
        format!("ssl_certificate {certificate}; ssl_certificate_key {key};")
    } else {
        String::new()
    };
    let ssl = if secure { "ssl" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary =
        temporary.map(|name| format!("{name}_temp_path {};\n", dir.join(name).display()));
    let text = format!(
        "daemon off; master_process off; pid {pid}; error_log stderr crit;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; keepalive_requests 100000000; {temporary}\n\
         server {{ listen 127.0.0.1:{port} {ssl}; {tls} location / {{ return 200 ok; }} }} }}\n",
        pid = dir.join("pid").display(),
        temporary = temporary.concat(),
    );
    fs::write(&config, text)?;
    let config = config.display().to_string();
    let words = ["nginx", "-e", "stderr", "-c", &config];
    Ok((words.map(str::to_owned).to_vec(), port.to_string()))
}

fn self_signed(key: &PathBuf, certificate: &PathBuf) -> Result<()> {
    let output = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
        ])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    fs::set_permissions(key, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// Requests and requests a second, from lines like `"GET","71428.57","0.1",…`.
fn redis_benchmark(text: &str) -> Option<(f64, f64)> {
    let line = text.lines().find(|line| line.starts_with("\"GET"))?;
    let rate = line.split(',').nth(1)?.trim_matches('"').parse().ok()?;
    Some((f64::from(REDIS_REQUESTS), rate))
}

/// The same from `  12345 requests in 1.00s, …` and `Requests/sec:  12345.67`.
fn wrk(text: &str) -> Option<(f64, f64)> {
    let requests = text
        .lines()
        .find_map(|line| line.split_once(" requests in"))?;
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))?;
    Some((requests.0.trim().parse().ok()?, rate.trim().parse().ok()?))
}
