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
/// Oldest h2o that speaks HTTP/3: what leads up to this one.
const H2O_MIN: (u32, u32) = (2, 3);
/// Modules of nginx that make directories when it starts, whether they are used or not.
const NGINX_STORING: [&str; 4] = ["proxy", "fastcgi", "uwsgi", "scgi"];
/// What BoringSSL and those akin to it have no names for: BoringSSL takes AES-128-GCM of those a client offers wherever the CPU has instructions for it.
const NGINX_CIPHER: &str = "ssl_conf_command";
/// Libraries that lack it, as they name themselves.
const NO_COMMANDS: [&str; 3] = ["BoringSSL", "LibreSSL", "AWS-LC"];
const STREAMS: u32 = 256;
/// Each stream takes one, too: twice those of the largest case.
const NGINX_CONNECTIONS: u32 = 2 * 64 * 256;

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
            Self::H2o => {
                "2.3 is wanted, which was never released (Debian has 2.2); build it and give --h2o PATH"
            }
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
    /// What of [`NGINX_STORING`] and [`NGINX_CIPHER`] it was built without.
    lacking: Vec<&'static str>,
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
        match look(kind, &program) {
            Ok((version, lacking)) => Ok(Ok(Self { kind, program, version, lacking })),
            Err(error) if given.is_some() => Err(error.context(format!("{} will not do", program.display()))),
            Err(error) => Ok(Err(format!("{}: not usable: {error:#}; {}", kind.name(), kind.hint()))),
        }
    }

    /// Writes its configuration into a directory that has `server.pem` and
    /// `server-key.pem`, and gives the command that runs it in the foreground.
    pub(super) fn command(&self, directory: &Path, port: u16, cpu: usize) -> anyhow::Result<Command> {
        let file = directory.join("config");
        std::fs::write(&file, configuration(self.kind, &self.lacking, directory, port)?)?;
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
            // Before it reads its configuration it would complain into a file of its own.
            Kind::Nginx => command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(&file),
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

/// Asks a program what it is: its version, and what it was built without.
fn look(kind: Kind, program: &Path) -> anyhow::Result<(String, Vec<&'static str>)> {
    let argument = match kind {
        Kind::Caddy => "version",
        Kind::Nginx => "-V",
        Kind::H2o => "--version",
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output()?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let is_lacking = |module: &&str| said.contains(&format!("--without-http_{module}_module"));
    let version = match kind {
        Kind::Nginx => nginx_version(&said)?,
        Kind::H2o => h2o_version(&said)?,
        Kind::Caddy => said.lines().next().context("it says nothing of its version")?.trim().to_owned(),
    };
    let storing = NGINX_STORING.into_iter().filter(is_lacking);
    Ok((version, storing.chain(lacks_cipher(&said).then_some(NGINX_CIPHER)).collect()))
}

/// Whether what it was built with, which `nginx -V` names, has no commands of OpenSSL's configuration.
fn lacks_cipher(said: &str) -> bool {
    NO_COMMANDS.into_iter().any(|name| said.contains(name))
}

fn h2o_version(said: &str) -> anyhow::Result<String> {
    let version =
        said.lines().find_map(|line| line.strip_prefix("h2o version ")).context("it is no h2o")?.trim();
    if numbers_of(version)? < H2O_MIN {
        bail!("h2o {version} has no HTTP/3: it is older than {}.{}", H2O_MIN.0, H2O_MIN.1);
    }
    Ok(format!("h2o {version}"))
}

/// The first two numbers of a version.
fn numbers_of(version: &str) -> anyhow::Result<(u32, u32)> {
    let mut parts = version.split(['.', ' ', '-']).map(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(Some(major)), Some(Some(minor))) => Ok((major, minor)),
        _ => bail!("odd version {version:?}"),
    }
}

fn nginx_version(said: &str) -> anyhow::Result<String> {
    let version =
        said.lines().find_map(|line| line.split_once("nginx version: ")).context("it is no nginx")?.1.trim();
    if numbers_of(version.rsplit('/').next().unwrap_or_default())? < NGINX_MIN {
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
fn configuration(kind: Kind, lacking: &[&str], directory: &Path, port: u16) -> anyhow::Result<String> {
    let directory = directory.to_str().context("the temporary directory's name is not UTF-8")?;
    // It goes into files where these would end a string.
    if directory.contains(['"', '\\', '\n', ';', '{', '}']) {
        bail!("the temporary directory {directory:?} has an odd name");
    }
    Ok(match kind {
        Kind::Caddy => caddy(directory, port),
        Kind::Nginx => nginx(lacking, directory, port),
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

fn nginx(lacking: &[&str], directory: &str, port: u16) -> String {
    let reply = reply();
    let cipher = if lacking.contains(&NGINX_CIPHER) {
        String::new()
    } else {
        format!("{NGINX_CIPHER} Ciphersuites TLS_AES_128_GCM_SHA256;")
    };
    // Where a distribution has it store things we may not write.
    let storing: String = NGINX_STORING
        .iter()
        .filter(|module| !lacking.contains(module))
        .map(|module| format!("\n    {module}_temp_path \"{directory}/{module}\";"))
        .collect();
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid "{directory}/pid";
error_log stderr crit;
events {{ worker_connections {NGINX_CONNECTIONS}; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path "{directory}/body";{storing}
    server {{
        listen 127.0.0.1:{port} quic reuseport;
        listen 127.0.0.1:{port} ssl;
        ssl_certificate "{directory}/server.pem";
        ssl_certificate_key "{directory}/server-key.pem";
        ssl_protocols TLSv1.3;
        {cipher}
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
    fn an_h2o_must_be_newer_than_what_was_released() {
        assert_eq!(
            h2o_version("h2o version 2.3.0-DEV@1a2b3c\nOpenSSL: x\n").unwrap(),
            "h2o 2.3.0-DEV@1a2b3c"
        );
        let refused = |said: &str| h2o_version(said).unwrap_err().to_string();
        assert!(refused("h2o version 2.2.5\nOpenSSL: OpenSSL 3.0.19\n").contains("no HTTP/3"));
        assert!(refused("h2o version x\n").contains("odd version"));
        assert!(refused("nginx version: nginx/1.27.3").contains("no h2o"));
    }

    #[test]
    fn libraries_without_commands_are_known_by_their_names() {
        for name in ["LibreSSL 4.0.0", "BoringSSL", "OpenSSL 1.1.1 (compatible; AWS-LC 1.40.0)"] {
            assert!(lacks_cipher(&format!("{BUILT}built with {name}\n")), "{name}");
        }
        assert!(!lacks_cipher(&format!("{BUILT}built with OpenSSL 3.0.19 27 Jan 2026\n")));
    }

    #[test]
    fn an_nginx_is_told_nothing_of_modules_that_it_lacks() {
        let text = nginx(&["fastcgi", "scgi", NGINX_CIPHER], "/d", 1);
        assert!(!text.contains(NGINX_CIPHER), "{text}");
        assert!(text.contains("proxy_temp_path \"/d/proxy\";") && text.contains("uwsgi_temp_path"), "{text}");
        assert!(!text.contains("fastcgi") && !text.contains(" scgi_"), "{text}");
    }

    #[test]
    fn configurations_are_alike_where_it_counts() {
        for kind in Kind::ALL {
            let text = configuration(kind, &[], Path::new("/tmp/a b"), 4567).unwrap();
            for part in ["4567", "127.0.0.1", "/tmp/a b/server.pem", "/tmp/a b/server-key.pem"] {
                assert!(text.contains(part), "{kind:?}: {part}");
            }
            // h2o sends a file of the same length.
            assert!(kind == Kind::H2o || text.contains(&"x".repeat(200)), "{kind:?}");
            assert!(configuration(kind, &[], Path::new("/tmp/a\"b"), 1).is_err());
        }
        for text in [nginx(&[], "/d", 1), h2o("/d", 1)] {
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
