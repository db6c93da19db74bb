//! Servers of others: found on this machine, given a configuration that is as near
//! to the rest of the comparison as they allow, started and stopped again.
//!
//! All have one worker thread, the same certificate, the same 200-byte reply, TLS 1.3
//! with AES-128-GCM (the client's first choice; where it can be said, the only one),
//! 256 streams a connection where that can be said, and write no log.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::json;

use super::servers::REPLY_BYTES;

/// Oldest nginx that speaks HTTP/3.
const NGINX_MIN: (u32, u32) = (1, 25);
/// What nginx must have been built with.
const NGINX_MODULE: &str = "http_v3_module";
const STREAMS: u32 = 256;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Caddy (quic-go).
    Caddy,
    /// nginx.
    Nginx,
    /// h2o (quicly).
    H2o,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Caddy, Self::Nginx, Self::H2o];

    /// Name of the program, and in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Nginx => "nginx",
            Self::H2o => "h2o",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Caddy => "Debian has it: apt-get install caddy; or give --caddy PATH",
            Self::Nginx => {
                "1.25 or newer with http_v3_module is wanted (Debian 12 has 1.22); give --nginx PATH"
            }
            Self::H2o => "Debian 12 has none with HTTP/3; build it and give --h2o PATH",
        }
    }
}

/// A server that can be started here.
#[derive(Debug, Clone)]
pub(super) struct External {
    pub(super) kind: Kind,
    program: PathBuf,
    /// What it says of its version.
    pub(super) version: String,
}

impl External {
    /// Looks for a program that will do, at `given` or in PATH.
    ///
    /// # Errors
    /// When one was given and will not do.
    pub(super) fn find(kind: Kind, given: Option<&Path>) -> anyhow::Result<Result<Self, String>> {
        // It is started in a directory of its own, so a path from here must be whole.
        let given = given.map(std::path::absolute).transpose()?;
        let program = given.clone().or_else(|| in_path(kind.name(), std::env::var_os("PATH")));
        let Some(program) = program else {
            return Ok(Err(format!("{}: not found; {}", kind.name(), kind.hint())));
        };
        match version(kind, &program) {
            Ok(version) => Ok(Ok(Self { kind, program, version })),
            Err(error) if given.is_some() => Err(error.context(format!("{} will not do", program.display()))),
            Err(error) => Ok(Err(format!("{}: not usable: {error:#}; {}", kind.name(), kind.hint()))),
        }
    }

    /// Writes its configuration into a directory that has `server.pem` and
    /// `server-key.pem`, and gives the command that runs it in the foreground.
    pub(super) fn command(&self, directory: &Path, port: u16, cpu: usize) -> anyhow::Result<Command> {
        let file = directory.join("config");
        std::fs::write(&file, configuration(self.kind, directory, port)?)?;
        if self.kind == Kind::H2o {
            let root = directory.join("root");
            std::fs::create_dir_all(&root)?;
            std::fs::write(root.join("index.txt"), reply())?;
        }
        // taskset becomes the program, so that its process is the one started here.
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(cpu.to_string()).arg(&self.program);
        match self.kind {
            Kind::Caddy => command.args(["run", "--config"]).arg(&file),
            Kind::Nginx => command.arg("-p").arg(directory).arg("-c").arg(&file),
            Kind::H2o => command.arg("-c").arg(&file),
        };
        // One thread runs Go code at a time. What it keeps, it keeps here.
        command.env("GOMAXPROCS", "1").env("HOME", directory).env("XDG_DATA_HOME", directory);
        command.env("XDG_CONFIG_HOME", directory).current_dir(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }
}

fn in_path(name: &str, path: Option<OsString>) -> Option<PathBuf> {
    std::env::split_paths(&path?).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn version(kind: Kind, program: &Path) -> anyhow::Result<String> {
    let argument = match kind {
        Kind::Caddy => "version",
        Kind::Nginx => "-V",
        Kind::H2o => "--version",
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output()?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    match kind {
        Kind::Nginx => nginx_version(&said),
        _ => Ok(said.lines().next().context("it says nothing of its version")?.trim().to_owned()),
    }
}

fn nginx_version(said: &str) -> anyhow::Result<String> {
    let version =
        said.lines().find_map(|line| line.split_once("nginx version: ")).context("it is no nginx")?.1.trim();
    let number = version.rsplit('/').next().unwrap_or_default();
    let mut parts = number.split(['.', ' ']).map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        bail!("odd version {version:?}");
    };
    if (major, minor) < NGINX_MIN {
        bail!("{version} is older than {}.{}", NGINX_MIN.0, NGINX_MIN.1);
    }
    if !said.contains(NGINX_MODULE) {
        bail!("{version} was built without {NGINX_MODULE}");
    }
    Ok(version.to_owned())
}

fn reply() -> String {
    "x".repeat(REPLY_BYTES)
}

/// The text of a server's configuration file.
fn configuration(kind: Kind, directory: &Path, port: u16) -> anyhow::Result<String> {
    let directory = directory.to_str().context("the temporary directory's name is not UTF-8")?;
    // It goes into files where these would end a string.
    if directory.contains(['"', '\\', '\n', ';', '{', '}']) {
        bail!("the temporary directory {directory:?} has an odd name");
    }
    Ok(match kind {
        Kind::Caddy => caddy(directory, port),
        Kind::Nginx => nginx(directory, port),
        Kind::H2o => h2o(directory, port),
    })
}

fn caddy(directory: &str, port: u16) -> String {
    let (certificate, key) = (format!("{directory}/server.pem"), format!("{directory}/server-key.pem"));
    let reply = json!({
        "handler": "static_response",
        "status_code": 200,
        "headers": {"Content-Type": ["text/plain"]},
        "body": reply(),
    });
    let server = json!({
        "listen": [format!("127.0.0.1:{port}")],
        "protocols": ["h1", "h2", "h3"],
        "automatic_https": {"disable": true},
        // The client names an address, and so sends no server name.
        "tls_connection_policies": [{"protocol_min": "tls1.3", "default_sni": "localhost"}],
        "routes": [{"handle": [reply]}],
    });
    json!({
        "admin": {"disabled": true, "config": {"persist": false}},
        // What it says when it cannot start is wanted; requests are not logged.
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {"servers": {"reply": server}},
            "tls": {"certificates": {"load_files": [{"certificate": certificate, "key": key}]}},
        },
    })
    .to_string()
}

fn nginx(directory: &str, port: u16) -> String {
    let reply = reply();
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid "{directory}/pid";
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path "{directory}/body";
    proxy_temp_path "{directory}/proxy";
    fastcgi_temp_path "{directory}/fastcgi";
    uwsgi_temp_path "{directory}/uwsgi";
    scgi_temp_path "{directory}/scgi";
    server {{
        listen 127.0.0.1:{port} quic reuseport;
        listen 127.0.0.1:{port} ssl;
        ssl_certificate "{directory}/server.pem";
        ssl_certificate_key "{directory}/server-key.pem";
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        http3_max_concurrent_streams {STREAMS};
        quic_gso on;
        location / {{ default_type text/plain; return 200 "{reply}"; }}
    }}
}}
"#
    )
}

fn h2o(directory: &str, port: u16) -> String {
    format!(
        r#"num-threads: 1
neverbleed: OFF
http2-max-concurrent-requests-per-connection: {STREAMS}
listen: &tcp
  host: 127.0.0.1
  port: {port}
  ssl:
    certificate-file: "{directory}/server.pem"
    key-file: "{directory}/server-key.pem"
    minimum-version: TLSv1.3
    cipher-suite-tls1.3: ["TLS_AES_128_GCM_SHA256"]
listen:
  <<: *tcp
  type: quic
  quic:
    max-streams-bidi: {STREAMS}
hosts:
  default:
    paths:
      "/":
        file.dir: "{directory}/root"
        file.index: ["index.txt"]
        file.send-compressed: OFF
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: &str =
        "nginx version: nginx/1.27.3\nbuilt by gcc\nconfigure arguments: --with-http_v3_module\n";

    #[test]
    fn an_nginx_must_be_new_enough_and_speak_http3() {
        assert_eq!(nginx_version(BUILT).unwrap(), "nginx/1.27.3");
        assert_eq!(
            nginx_version(&BUILT.replace("1.27.3", "2.0.0 (Ubuntu)")).unwrap(),
            "nginx/2.0.0 (Ubuntu)"
        );
        let refused = |said: &str| nginx_version(said).unwrap_err().to_string();
        assert!(refused(&BUILT.replace("1.27.3", "1.22.1")).contains("older than 1.25"));
        assert!(refused(&BUILT.replace("http_v3", "http_v2")).contains("without http_v3_module"));
        assert!(refused("something else").contains("no nginx"));
        assert!(refused("nginx version: nginx/x.y").contains("odd version"));
    }

    #[test]
    fn configurations_are_alike_where_it_counts() {
        for kind in Kind::ALL {
            let text = configuration(kind, Path::new("/tmp/a b"), 4567).unwrap();
            for part in ["4567", "127.0.0.1", "/tmp/a b/server.pem", "/tmp/a b/server-key.pem"] {
                assert!(text.contains(part), "{kind:?}: {part}");
            }
            // h2o sends a file of the same length.
            assert!(kind == Kind::H2o || text.contains(&"x".repeat(200)), "{kind:?}");
            assert!(configuration(kind, Path::new("/tmp/a\"b"), 1).is_err());
        }
        for text in [nginx("/d", 1), h2o("/d", 1)] {
            assert!(text.contains("TLS_AES_128_GCM_SHA256") && text.contains("256"), "{text}");
        }
    }

    #[test]
    fn caddys_configuration_is_json_without_admin_or_log() {
        let value: serde_json::Value = serde_json::from_str(&caddy("/d", 9)).unwrap();
        assert_eq!(value["admin"]["disabled"], true);
        let server = &value["apps"]["http"]["servers"]["reply"];
        assert_eq!(server["listen"][0], "127.0.0.1:9");
        assert_eq!(server["routes"][0]["handle"][0]["body"].as_str().unwrap().len(), REPLY_BYTES);
        assert!(server.get("logs").is_none());
    }

    #[test]
    fn what_is_missing_is_named_with_a_hint() {
        assert_eq!(in_path("caddy", Some("/nowhere:/nor/here".into())), None);
        assert_eq!(in_path("caddy", None), None);
        let given = External::find(Kind::Nginx, Some(Path::new("/nowhere/nginx")));
        assert!(format!("{:#}", given.unwrap_err()).contains("/nowhere/nginx will not do"));
        assert!(Kind::ALL.iter().all(|kind| kind.hint().contains(&format!("--{}", kind.name()))));
    }

    #[test]
    fn a_program_in_the_path_is_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("h2o"), "").unwrap();
        let path = std::env::join_paths(["/nowhere".as_ref(), directory.path()]).unwrap();
        assert_eq!(in_path("h2o", Some(path)), Some(directory.path().join("h2o")));
    }
}
