use std::time::Duration;

use super::sources::SECRET_KEYS;
use super::*;

const KEYS_MARK: &str = "<!-- keys -->\n";

/// The checkout is asked for when the test runs: a shared cache may hold a binary that another one built.
fn docs_path() -> PathBuf {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&root).join("docs/configuration.md")
}

/// A configuration file that is removed with the test.
struct File(tempfile::TempDir);

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("sluice.toml"), text).expect("writable");
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sluice.toml")
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}

fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = File::new(text);
    Config::load_from(Some(&file.path()), pairs(environment).into_iter(), &pairs(flags))
}

/// The problems of a refused configuration, without the directory of the file.
fn refused(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let file = File::new(text);
    let result = Config::load_from(Some(&file.path()), pairs(environment).into_iter(), &[]);
    let ConfigError::Refused(problems) = result.expect_err("refused") else { panic!("another error") };
    let directory = format!("{}/", file.0.path().display());
    problems.iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
}

#[test]
fn defaults_hold_without_any_source() {
    let config = Config::load_from(None, std::iter::empty(), &[]).expect("the defaults are sound");
    assert_eq!(config, Config::default());
    let sockets: Vec<String> = config.listen.sockets().map(|socket| socket.to_string()).collect();
    assert_eq!(sockets, ["127.0.0.1:4433", "[::1]:4433"]);
    assert_eq!(config.listen.core_port_first(), Some(4434));
    assert_eq!(config.admin.socket_path(&config.server), Path::new("data/admin.sock"));
    assert_eq!(config.limits.idle_timeout_ms.duration(), Duration::from_secs(30));
}

#[test]
fn environment_goes_over_the_file_and_flags_over_both() {
    let text =
        "[listen]\nport = 1000\naddresses = ['10.0.0.1']\n[log]\nlevel = 'warn'\n[server]\nshards = 8\n";
    let environment = [
        ("SLUICE_LISTEN__PORT", "2000"),
        ("SLUICE_LISTEN__ADDRESSES", "10.0.0.2, ::1"),
        ("SLUICE_LOG__LEVEL", "debug"),
        ("SLUICE_SERVER__PIN", "false"),
        ("UNRELATED", "1"),
    ];
    let flags =
        [("listen.port", "3000"), ("webhooks.ports", "443, 9000"), ("webhooks.allow", "10.0.0.0/8,::1/128")];
    let config = load(text, &environment, &flags).expect("sound");
    assert_eq!(config.webhooks.ports, [443, 9000]);
    assert_eq!(config.webhooks.allow, ["10.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(config.listen.port, 3000);
    assert_eq!(config.listen.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    assert_eq!((config.log.level, config.server.shards, config.server.pin), (LogLevel::Debug, 8, false));
    assert_eq!(config.origin("listen.port"), Origin::Flag);
    assert_eq!(config.origin("log.level"), Origin::Environment("SLUICE_LOG__LEVEL".to_owned()));
    assert!(matches!(config.origin("server.shards"), Origin::File(path) if path.ends_with("sluice.toml")));
    assert_eq!(config.origin("store.durability"), Origin::Default);
}

#[test]
fn an_unknown_key_names_file_and_key_and_the_allowed_keys_all_at_once() {
    let problems = refused("[log]\nlevle = 'info'\n[tsl]\nkey = ''\n", &[("SLUICE_ADMIN__LITSEN", "x")]);
    assert_eq!(
        problems,
        [
            "SLUICE_ADMIN__LITSEN: admin.litsen: unknown key; keys in [admin] are listen, socket",
            "sluice.toml: log.levle: unknown key; keys in [log] are level, format",
            "sluice.toml: tsl: unknown section; sections are server, listen, tls, limits, rate, tasks, context, webhooks, store, vault, egress, cache, quota, \
             intent, openai, google, identity, admin, log",
        ]
    );
    assert_eq!(refused("cores = 2\n", &[])[0].split(';').next(), Some("sluice.toml: cores: unknown section"));
}

#[test]
fn a_bad_value_says_what_is_allowed() {
    let problem = |text| refused(text, &[]).join("\n");
    let level = problem("[log]\nlevel = 'loud'\n");
    assert!(level.starts_with("sluice.toml: log.level: ") && level.contains("\"trace\""), "{level}");
    let port = problem("[listen]\nport = 70000\n");
    assert!(port.starts_with("sluice.toml: listen.port: ") && port.contains("0 to 65535"), "{port}");
    let address = problem("[listen]\naddresses = ['127.0.0.1:4433']\n");
    assert!(
        address.starts_with("sluice.toml: listen.addresses") && address.contains("IP address"),
        "{address}"
    );
    let section = problem("log = 5\n");
    assert!(section.starts_with("sluice.toml: log: "), "{section}");
    let number = refused("", &[("SLUICE_SERVER__CORES", "many")]).join("\n");
    assert!(
        number.starts_with("SLUICE_SERVER__CORES: server.cores: ") && number.contains("0 to 256"),
        "{number}"
    );
    let negative = problem("[server]\nshards = -1\n");
    assert!(negative.starts_with("sluice.toml: server.shards: "), "{negative}");
}

#[test]
fn master_keys_come_from_the_environment_alone_or_from_a_file() {
    let keys = "1:5ec4e7";
    let config = load("", &[("SLUICE_VAULT__KEYS", keys)], &[]).expect("sound");
    assert_eq!(config.vault.keys.expose(), Some(keys));
    assert!(!config.print().contains("5ec4e7") && !format!("{config:?}").contains("5ec4e7"));
    let in_file = refused("[vault]\nkeys = '1:5ec4e7'\n", &[]).join("\n");
    assert!(in_file.starts_with("sluice.toml: vault.keys: allowed is the environment alone"), "{in_file}");
    let flag = load("", &[], &[("vault.keys", keys)]).expect_err("refused").to_string();
    assert!(flag.contains("command line: vault.keys"), "{flag}");
    let both = refused("[vault]\nkey_file = 'keys'\n", &[("SLUICE_VAULT__KEYS", keys)]).join("\n");
    assert!(both.contains("vault.key_file: vault.keys is set too"), "{both}");
    let credential = refused("[vault]\ncredential = '../keys'\n", &[]).join("\n");
    assert!(credential.contains("vault.credential"), "{credential}");
    for said in [in_file, flag, both] {
        assert!(!said.contains("5ec4e7"), "{said}");
    }
}

#[test]
fn a_variable_with_one_underscore_too_few_is_not_passed_over() {
    let problems = refused("", &[("SLUICE_LISTEN_PORT", "1"), ("SLUICE_CONFIG", "/etc/sluice.toml")]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("SLUICE_LISTEN_PORT: ") && problems[0].contains("SLUICE_LISTEN__PORT"));
    let flag = load("", &[], &[("port", "1")]).expect_err("no section").to_string();
    assert!(flag.contains("command line: port: ") && flag.contains("listen.port"), "{flag}");
}

#[test]
fn impossible_combinations_are_refused_by_key() {
    for (text, key) in [
        ("[tls]\ncertificate = 'a.pem'\n", "tls.certificate"),
        ("[tls]\nkey = 'a.pem'\n", "tls.key"),
        ("[tls]\ndevelopment = false\n", "tls.development"),
        ("[tls]\ncertificate = 'a'\nkey = 'b'\ndevelopment = true\n", "tls.development"),
        ("[[tls.certificates]]\nchain = 'a'\nkey = 'b'\n", "tls.certificates"),
        ("[[tls.certificates]]\nchain = 'a'\n", "tls.certificates"),
        ("[[tls.certificates]]\nchain = 'a'\nkey = 'b'\nname = 'c'\n", "tls.certificates"),
        ("[tls]\ncertificates = ['a.pem']\n", "tls.certificates"),
        ("[server]\nshards = 0\n", "server.shards"),
        ("[server]\nshards = 4097\n", "server.shards"),
        ("[server]\ncores = 257\nshards = 4096\n", "server.cores"),
        ("[server]\ncores = 9\nshards = 8\n", "server.cores"),
        ("[server]\ndata_dir = ''\n", "server.data_dir"),
        ("[listen]\nport = 65535\n", "listen.core_port_base"),
        ("[listen]\ncore_port_base = 65535\n[server]\ncores = 2\n", "listen.core_port_base"),
        ("[listen]\ncore_port_base = 4430\n[server]\ncores = 4\n", "listen.core_port_base"),
        ("[listen]\nalt_svc_core_port_base = 65533\n[server]\ncores = 4\n", "listen.alt_svc_core_port_base"),
        ("[listen]\naddresses = []\n", "listen.addresses"),
        ("[listen]\naddresses = ['::1', '::1']\n", "listen.addresses"),
        ("[limits]\ntasks_running_per_core_max = 4\n", "limits.tasks_running_per_user_max"),
        ("[egress]\nretry_backoff_max_ms = 99\n", "egress.retry_backoff_max_ms"),
        ("[openai]\napi_key = 'a'\napi_key_file = 'b'\n", "openai.api_key_file"),
        ("[openai]\nbase_url = 'api.openai.com'\n", "openai.base_url"),
        ("[google]\nclient_secret = 'a'\nclient_secret_file = 'b'\n", "google.client_secret_file"),
        ("[google]\ndrive_url = 'https://a?b'\n", "google.drive_url"),
        ("[google]\nrevoke_url = 'https://a/revoke'\n", "google.revoke_url"),
        ("[google]\nrevoke_url = 'revoke'\n", "google.revoke_url"),
        ("[google]\nauth_url = 'accounts'\n", "google.auth_url"),
        ("[google]\ndelegated_signatures_max = 257\n", "google.delegated_signatures_max"),
        ("[google]\nreturn_origins = ['https://a/']\n", "google.return_origins"),
        ("[google]\nreturn_origins = ['http://a']\n", "google.return_origins"),
        ("[listen]\npublic_url = 'https://a/b'\n", "listen.public_url"),
        ("[listen]\npublic_url = 'http://a'\n", "listen.public_url"),
        ("[listen]\npublic_url = 'https://A'\n", "listen.public_url"),
        ("[tasks]\nconfirm = ['gmail.send', 'gmail.sent']\n", "tasks.confirm"),
        ("[tasks]\nretry_base_ms = 60000\n", "tasks.retry_max_ms"),
        ("[webhooks]\nports = [443, 0]\n", "webhooks.ports"),
        ("[webhooks]\nallow = ['10.0.0.0/33']\n", "webhooks.allow"),
        ("[webhooks]\nallow = ['10.0.0.1']\n", "webhooks.allow"),
    ] {
        let problems = refused(text, &[]);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        let about = format!(": {key}: ");
        assert!(problems[0].contains(&about), "{text}: {problems:?}");
    }
    load("[tls]\ncertificate = 'a'\nkey = 'b'\n", &[], &[]).expect("a certificate needs nothing more");
    load("[tasks]\nconfirm = ['gmail.trash', 'drive.trash']\n", &[], &[])
        .expect("what workflows alone may do can be held, too");
    load("[listen]\nport = 0\n", &[], &[]).expect("the system chooses every port");
    let local = "[google]\ntoken_url = 'http://127.0.0.1:8/oauth/token'\n[listen]\nport = 4433\n";
    let local = load(local, &[], &[]).expect("the rest follows");
    assert_eq!(local.google.revocation_url(), "http://127.0.0.1:8/oauth/revoke");
    assert_eq!(local.listen.public_origin(), "https://localhost:4433");
    assert_eq!(Config::default().google.revocation_url(), "https://oauth2.googleapis.com/revoke");
    let public = load("[listen]\npublic_url = 'https://a.example.com/'\n", &[], &[]).expect("an origin");
    assert_eq!(public.listen.public_origin(), "https://a.example.com");
    load("[listen]\ncore_port_base = 4429\n[server]\ncores = 4\n", &[], &[])
        .expect("next to the shared port");
}

#[test]
fn answers_name_ports_that_clients_reach() {
    let named = |text: &str| {
        let listen = load(&format!("[listen]\n{text}"), &[], &[]).expect("it fits").listen;
        (listen.alt_svc_shared(), listen.alt_svc_core_ports(&[4434, 4435]))
    };
    let port = |port| AltSvc::Port(NonZeroU16::new(port).expect("a port"));
    assert_eq!(named(""), (AltSvc::PortAsBound, vec![4434, 4435]));
    assert_eq!(named("alt_svc_port = 443"), (port(443), vec![]));
    assert_eq!(
        named("alt_svc_port = 443\nalt_svc_core_port_base = 65534"),
        (port(443), vec![65_534, 65_535])
    );
    assert_eq!(named("alt_svc_core_port_base = 8000"), (AltSvc::PortAsBound, vec![8_000, 8_001]));
    let off = "alt_svc = false\nalt_svc_port = 443\nalt_svc_core_port_base = 8000";
    assert_eq!(named(off), (AltSvc::Nothing, vec![]));
}

#[test]
fn bounds_that_are_checked_are_the_bounds_that_are_documented() {
    // Each figure just outside its bounds, by the text of its key: "… 1 to 64 …".
    for section in SECTIONS {
        for KeyText { key, lines, .. } in section.keys {
            let Some((min, max)) = documented_bounds(&lines.concat()) else { continue };
            if matches!(*key, "addresses") {
                continue;
            }
            for outside in [min.checked_sub(1), Some(max + 1)].into_iter().flatten() {
                let text = format!("[{}]\n{key} = {outside}\n", section.name);
                let problems = refused(&text, &[]);
                let about = format!("sluice.toml: {}.{key}: ", section.name);
                assert!(problems.iter().any(|problem| problem.starts_with(&about)), "{text}: {problems:?}");
            }
        }
    }
}

fn documented_bounds(text: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |word: &str| word.trim_end_matches([',', '.', ';']).parse().ok();
    words.windows(3).find_map(|w| if w[1] == "to" { Some((number(w[0])?, number(w[2])?)) } else { None })
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let missing = Config::load_from(Some(Path::new("/nowhere/sluice.toml")), std::iter::empty(), &[]);
    assert!(missing.expect_err("missing").to_string().contains("/nowhere/sluice.toml"));
    let broken = load("[listen]\nport =\n", &[], &[]).expect_err("no TOML");
    let text = broken.to_string();
    assert!(matches!(broken, ConfigError::Syntax { .. }) && text.contains("line 2"), "{text}");
}

#[test]
fn a_secret_of_digits_stays_a_text_and_is_never_shown() {
    let config =
        load("", &[("SLUICE_OPENAI__API_KEY", "12345678")], &[("google.client_secret", "topsecret")])
            .expect("sound");
    assert_eq!(config.openai.resolve_key().expect("no file"), Some("12345678".to_owned()));
    for text in [config.print(), format!("{config:?}")] {
        assert!(!text.contains("12345678") && !text.contains("topsecret"), "{text}");
    }
    assert!(config.print().contains("api_key = \"(hidden)\"  # SLUICE_OPENAI__API_KEY\n"));
}

#[test]
fn no_message_quotes_a_secret() {
    let number = load("[openai]\napi_key = 12345678\n", &[], &[]).expect_err("a number").to_string();
    assert!(number.contains("openai.api_key: not a text") && !number.contains("12345678"), "{number}");
    let syntax = load("[openai]\napi_key = topsecret\n", &[], &[]).expect_err("no TOML").to_string();
    assert!(syntax.contains("line 2") && !syntax.contains("topsecret"), "{syntax}");
    let secrets: Vec<String> = values_of(&Config::default())
        .into_keys()
        .filter(|key| {
            let (_, name) = key.split_once('.').expect("a section");
            let shown = load("", &[], &[(key, "topsecret")]).map(|config| config.print()).unwrap_or_default();
            shown.contains(&format!("{name} = \"(hidden)\""))
        })
        .collect();
    assert_eq!(secrets, ["google.client_secret", "openai.api_key"]);
    assert!(secrets.iter().all(|key| SECRET_KEYS.contains(&key.as_str())));
}

#[test]
fn a_secret_is_read_from_its_file_without_the_line_end() {
    let file = File::new("from-file\n");
    let path = file.path().display().to_string();
    let config = load("", &[], &[("openai.api_key_file", &path)]).expect("sound");
    assert_eq!(config.openai.resolve_key().expect("readable"), Some("from-file".to_owned()));
    let config = load("", &[], &[("google.client_secret_file", "/nowhere")]).expect("sound");
    assert!(config.google.resolve_client_secret().is_err());
}

#[test]
fn credentials_are_demanded_for_real_upstreams_only() {
    let keys = |config: &Config| {
        let problems = config.check_credentials().err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&Config::default()), ["openai.api_key", "google.client_id", "google.client_secret"]);
    let local = "[openai]\nbase_url = 'http://[::1]:8080'\n[google]\ntoken_url = 'http://[::1]:8080/token'\n";
    assert_eq!(keys(&load(local, &[], &[]).expect("sound")), Vec::<String>::new());
}

#[test]
fn certificates_are_given_as_tables_or_as_texts() {
    let pair = |name: &str| CertificatePair {
        chain: format!("{name}.pem").into(),
        key: format!("{name}.key").into(),
    };
    let tables = "[tls]\ncertificate = 'c'\nkey = 'k'\ndevelopment = false\n\
                  [[tls.certificates]]\nchain = 'a.pem'\nkey = 'a.key'\n\
                  [[tls.certificates]]\nchain = 'b.pem'\nkey = 'b.key'\n";
    let config = load(tables, &[], &[]).expect("sound");
    assert_eq!(config.tls.certificates, [pair("a"), pair("b")]);
    assert_eq!(load(&config.print(), &[], &[]).expect("sound").tls, config.tls);
    let texts = [("SLUICE_TLS__CERTIFICATES", "a.pem:a.key, b.pem:b.key"), ("SLUICE_TLS__CERTIFICATE", "c")];
    let config = load("[tls]\nkey = 'k'\n", &texts, &[]).expect("sound");
    assert_eq!(config.tls.certificates, [pair("a"), pair("b")]);
}

#[test]
fn what_is_printed_can_be_loaded_again() {
    let text = "[listen]\naddresses = ['10.0.0.1']\n[store]\ndurability = 'os'\n[tls]\ncertificate = 'a b.pem'\nkey = 'k'\n\
                development = false\n[admin]\nlisten = '[::1]:1'\n";
    let config = load(text, &[], &[]).expect("sound");
    let printed = config.print();
    let mut again = load(&printed, &[], &[]).expect("what is printed is sound");
    again.origins.clone_from(&config.origins);
    assert_eq!(again, config);
    assert!(printed.contains("port = 4433  # default\n"), "{printed}");
}

#[test]
fn every_key_is_described_and_every_description_is_of_a_key() {
    let described: Vec<String> = SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(|text| format!("{}.{}", section.name, text.key)))
        .collect();
    let mut sorted = described.clone();
    sorted.sort();
    assert_eq!(sorted, values_of(&Config::default()).into_keys().collect::<Vec<_>>());
}

/// With `UPDATE_DOCS=1` the list in the file is written anew instead.
#[test]
fn the_reference_lists_every_key_with_its_true_default() {
    let docs = std::fs::read_to_string(docs_path()).expect("docs/configuration.md is there");
    let (introduction, keys) = docs.split_once(KEYS_MARK).expect("the list begins at its mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(docs_path(), format!("{introduction}{KEYS_MARK}{}", reference())).expect("writable");
        return;
    }
    assert_eq!(keys, reference(), "run this test with UPDATE_DOCS=1 to renew docs/configuration.md");
}
