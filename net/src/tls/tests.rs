use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};
use rustls::{CipherSuite, ClientConnection, HandshakeKind, ServerConnection};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::development::{
    CA_KEY_FILE, Development, LEAF_FILE, LEAF_KEY_FILE, LEAF_LIFETIME, make_authority, make_leaf, names_for,
};
use super::*;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn names() -> BTreeSet<String> {
    names_for("box.example")
}

fn text(file: PathBuf) -> String {
    std::fs::read_to_string(file).expect("readable")
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("writable");
}

fn development_for(
    directory: &Path,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<TlsIdentity, TlsError> {
    TlsIdentity::development_for(Development::new(directory, names), now)
}

/// Runs a handshake in memory and lets the client read the tickets.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ServerConnection, ClientConnection), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    for _ in 0..4 {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).expect("memory");
        server.read_tls(&mut flight.as_slice()).expect("memory");
        server.process_new_packets()?;
        let mut flight = Vec::new();
        server.write_tls(&mut flight).expect("memory");
        client.read_tls(&mut flight.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((server, client))
}

#[test]
fn a_client_that_trusts_the_authority_agrees_on_tls13_aes128_and_h3() {
    let home = directory();
    let identity = development_for(home.path(), &names(), SystemTime::now()).expect("made");
    assert!(identity.warnings().is_empty(), "{:?}", identity.warnings());
    let keys = SharedKeys::generate().expect("keys");
    let server = server_crypto(&identity, &keys, EarlyData::Off).expect("server");
    let trusted = [identity.authority().expect("a development identity").to_owned()];
    let client = client_crypto(Trust::Files(&trusted)).expect("client");
    for name in ["localhost", "127.0.0.1", "::1", "box.example"] {
        let (server, _) = shake(&server, &client, name).expect("a handshake");
        let suite = server.negotiated_cipher_suite().expect("a suite").suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(server.alpn_protocol(), Some(ALPN_H3));
    }
    assert!(shake(&server, &client, "other.example").is_err());
}

#[test]
fn a_client_trusts_the_given_authority_only() {
    let (home, stranger) = (directory(), directory());
    let now = SystemTime::now();
    let identity = development_for(home.path(), &names(), now).expect("made");
    let other = development_for(stranger.path(), &names(), now).expect("made");
    let keys = SharedKeys::generate().expect("keys");
    let server = server_crypto(&identity, &keys, EarlyData::Off).expect("server");
    let trusted = [other.authority().expect("a development identity").to_owned()];
    let client = client_crypto(Trust::Files(&trusted)).expect("client");
    assert!(shake(&server, &client, "localhost").is_err());
    let trusting = client_crypto(Trust::AnyServer).expect("client");
    assert!(shake(&server, &trusting, "localhost").is_ok());
}

#[test]
fn a_session_begun_on_one_core_resumes_on_another() {
    let home = directory();
    let identity = development_for(home.path(), &names(), SystemTime::now()).expect("made");
    let client = client_crypto(Trust::AnyServer).expect("client");
    for early_data in [EarlyData::Off, EarlyData::On] {
        let keys = SharedKeys::generate().expect("keys");
        let one = server_crypto(&identity, &keys, early_data).expect("server");
        let two = server_crypto(&identity, &keys.clone(), early_data).expect("server");
        // Sessions of the round before are of other keys, so this first handshake is a full one.
        let (_, first) = shake(&one, &client, "localhost").expect("a handshake");
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full), "{early_data:?}");
        let (_, second) = shake(&two, &client, "localhost").expect("a handshake");
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{early_data:?}");
    }
}

#[test]
fn quic_accepts_the_configuration_and_early_data_is_all_or_nothing() {
    let home = directory();
    let identity = development_for(home.path(), &names(), SystemTime::now()).expect("made");
    let keys = SharedKeys::generate().expect("keys");
    for (early_data, size) in [(EarlyData::Off, 0), (EarlyData::On, u32::MAX)] {
        let config = server_crypto(&identity, &keys, early_data).expect("server");
        assert_eq!(config.max_early_data_size, size);
        assert!(quinn_proto::crypto::rustls::QuicServerConfig::try_from(config).is_ok());
    }
    let client = client_crypto(Trust::AnyServer).expect("client");
    assert!(quinn_proto::crypto::rustls::QuicClientConfig::try_from(client).is_ok());
}

#[test]
fn shared_keys_agree_among_clones_and_differ_between_starts() {
    let keys = SharedKeys::generate().expect("keys");
    let sign = |keys: &SharedKeys| {
        let key = keys.reset_key();
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"connection", &mut signature);
        signature
    };
    let mine = sign(&keys);
    assert_eq!(mine, sign(&keys.clone()));
    assert!(keys.reset_key().verify(b"connection", &mine).is_ok());
    let other = SharedKeys::generate().expect("keys");
    assert!(other.reset_key().verify(b"connection", &mine).is_err());

    let mut sealed = b"token".to_vec();
    keys.token_key().aead_from_hkdf(b"random").seal(&mut sealed, b"").expect("sealed");
    let mut copy = sealed.clone();
    let opened =
        keys.clone().token_key().aead_from_hkdf(b"random").open(&mut copy, b"").map(|plain| plain.to_vec());
    assert_eq!(opened.expect("opened"), b"token");
    assert!(other.token_key().aead_from_hkdf(b"random").open(&mut sealed, b"").is_err());
}

#[test]
fn keys_from_a_node_secret_are_the_same_after_each_start_and_for_one_purpose_each() {
    let start = |secret| SharedKeys::generate().expect("keys").with_node_secret(&[secret; NODE_SECRET_BYTES]);
    let sign = |keys: &SharedKeys| {
        let mut signature = [0; 32];
        keys.reset_key().sign(b"connection", &mut signature);
        signature
    };
    assert_eq!(sign(&start(1)), sign(&start(1)));
    assert_ne!(sign(&start(1)), sign(&start(2)));
    let mut plain = [0; 32];
    ReadyKey::new(&[1; NODE_SECRET_BYTES]).sign(b"connection", &mut plain);
    assert_ne!(sign(&start(1)), plain, "the secret itself signs nothing that is told to others");

    let mut sealed = b"token".to_vec();
    start(1).token_key().aead_from_hkdf(b"random").seal(&mut sealed, b"").expect("sealed");
    let open = |keys: SharedKeys| {
        keys.token_key()
            .aead_from_hkdf(b"random")
            .open(&mut sealed.clone(), b"")
            .map(|text| text.to_vec())
            .ok()
    };
    assert_eq!(open(start(1)).as_deref(), Some(&b"token"[..]));
    assert_eq!(open(start(2)), None);
}

#[test]
fn the_authority_is_made_once_and_keys_are_private() {
    let home = directory();
    let now = SystemTime::now();
    development_for(home.path(), &names(), now).expect("made");
    let before =
        [DEVELOPMENT_CA_FILE, CA_KEY_FILE, LEAF_FILE, LEAF_KEY_FILE].map(|name| text(home.path().join(name)));
    development_for(home.path(), &names(), now).expect("loaded");
    let after =
        [DEVELOPMENT_CA_FILE, CA_KEY_FILE, LEAF_FILE, LEAF_KEY_FILE].map(|name| text(home.path().join(name)));
    assert_eq!(before, after);
    for name in [CA_KEY_FILE, LEAF_KEY_FILE] {
        let mode = std::fs::metadata(home.path().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn the_leaf_is_renewed_near_its_end_on_new_names_and_when_damaged_under_the_same_authority() {
    let home = directory();
    let now = SystemTime::now();
    let leaf = || text(home.path().join(LEAF_FILE));
    development_for(home.path(), &names(), now).expect("made");
    let authority = text(home.path().join(DEVELOPMENT_CA_FILE));

    let first = leaf();
    development_for(home.path(), &names(), now + LEAF_LIFETIME - RENEW_BEFORE - DAY).expect("loaded");
    assert_eq!(leaf(), first);
    development_for(home.path(), &names(), now + LEAF_LIFETIME - RENEW_BEFORE + DAY).expect("renewed");
    let second = leaf();
    assert_ne!(second, first);

    development_for(home.path(), &names_for("moved.example"), now + LEAF_LIFETIME).expect("renewed");
    let third = leaf();
    assert_ne!(third, second);

    write(&home.path().join(LEAF_KEY_FILE), &KeyPair::generate().expect("a key").serialize_pem());
    development_for(home.path(), &names_for("moved.example"), now + LEAF_LIFETIME).expect("mended");
    assert_ne!(leaf(), third);
    assert_eq!(text(home.path().join(DEVELOPMENT_CA_FILE)), authority);
}

#[test]
fn a_leaf_of_another_authority_is_replaced() {
    let (home, stranger) = (directory(), directory());
    let now = SystemTime::now();
    development_for(home.path(), &names(), now).expect("made");
    development_for(stranger.path(), &names(), now).expect("made");
    for name in [LEAF_FILE, LEAF_KEY_FILE] {
        std::fs::copy(stranger.path().join(name), home.path().join(name)).expect("copied");
    }
    development_for(home.path(), &names(), now).expect("replaced");
    assert_ne!(text(home.path().join(LEAF_FILE)), text(stranger.path().join(LEAF_FILE)));
}

#[test]
fn an_authority_without_its_key_is_not_replaced_behind_the_clients_backs() {
    let home = directory();
    let now = SystemTime::now();
    development_for(home.path(), &names(), now).expect("made");
    std::fs::remove_file(home.path().join(CA_KEY_FILE)).expect("removed");
    let error = development_for(home.path(), &names(), now).expect_err("refused");
    assert!(matches!(error, TlsError::AuthorityKeyMissing { .. }), "{error}");
}

/// Files of a certificate for some names that was made at some time and lasts a year.
fn issue(home: &TempDir, file: &str, names: &[&str], made: SystemTime) -> CertificateFiles {
    let path = |end: &str| home.path().join(format!("{file}{end}"));
    let issuer = make_authority(&path("-ca.pem"), &path("-ca.key"), made).expect("made");
    let files = CertificateFiles { chain: path(".pem"), key: path(".key") };
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    make_leaf(&issuer, &files, &names, made).expect("made");
    files
}

#[test]
fn a_certificate_outside_its_time_is_refused_with_what_to_do() {
    let home = directory();
    let now = SystemTime::now();
    let files = issue(&home, "a", &["a.example"], now);
    let at = |now| Certificate::load(&files, now);
    assert!(at(now).expect("good").warnings.is_empty());
    let over = at(now + LEAF_LIFETIME + DAY).expect_err("over");
    assert!(matches!(&over, TlsError::Expired { file, .. } if *file == files.chain), "{over}");
    assert!(over.to_string().contains("put a renewed one in its place"), "{over}");
    let early = at(now - DAY * 2).expect_err("early");
    assert!(matches!(&early, TlsError::NotYetValid { file, .. } if *file == files.chain), "{early}");
    assert!(early.to_string().contains("clock"), "{early}");
    let near = at(now + LEAF_LIFETIME - DAY).expect("still good");
    assert!(matches!(&near.warnings[..], [TlsWarning::ExpiresSoon { .. }]), "{:?}", near.warnings);
    assert!(near.facts.ends > now + LEAF_LIFETIME - DAY && near.facts.ends < now + LEAF_LIFETIME + DAY);
}

#[test]
fn doubts_that_do_not_keep_a_certificate_from_use_are_said() {
    let home = directory();
    let now = SystemTime::now();
    let files = issue(&home, "a", &["a.example"], now);
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).expect("changed");
    let other = issue(&home, "b", &["b.example"], now);
    write(&files.chain, &(text(files.chain.clone()) + &text(other.chain)));
    let warnings = Certificate::load(&files, now).expect("used").warnings;
    // Both leaves are from authorities of the same name, but the second is no authority.
    assert!(
        matches!(&warnings[..], [TlsWarning::ChainBroken { .. }, TlsWarning::KeyReadableByAll { .. }]),
        "{warnings:?}"
    );
}

#[test]
fn a_certificate_that_names_nobody_is_refused() {
    let home = directory();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    let files = CertificateFiles { chain: home.path().join("c"), key: home.path().join("k") };
    write(&files.chain, &params.self_signed(&key).expect("signed").pem());
    write(&files.key, &key.serialize_pem());
    let error = Certificate::load(&files, SystemTime::now()).expect_err("refused");
    assert!(matches!(&error, TlsError::NoNames { file } if *file == files.chain), "{error}");
}

/// The names in the certificate a client is given that asks for this name.
fn shown(server: &Arc<ServerConfig>, name: &str) -> Vec<String> {
    let client = client_crypto(Trust::AnyServer).expect("client");
    let (_, client) = shake(server, &client, name).expect("a handshake");
    let chain = client.peer_certificates().expect("a certificate");
    let parsed = certificate::parse(Path::new("shown"), &chain[0]).expect("a certificate");
    certificate::subject_names(&parsed).collect()
}

#[test]
fn clients_are_given_the_certificate_of_the_name_they_ask_for() {
    let home = directory();
    let now = SystemTime::now();
    let list = vec![
        issue(&home, "default", &["default.example"], now),
        issue(&home, "wild", &["*.example.com"], now),
        issue(&home, "exact", &["API.example.com", "*.example.com"], now),
    ];
    let wild = list[2].chain.clone();
    let identity = TlsIdentity::from_list(list).expect("good");
    let taken = TlsWarning::NameTaken { file: wild, name: "*.example.com".to_owned() };
    assert_eq!(identity.warnings(), [taken]);
    let keys = SharedKeys::generate().expect("keys");
    let server = server_crypto(&identity, &keys, EarlyData::Off).expect("server");
    for (asked, first_name) in [
        ("default.example", "default.example"),
        ("api.example.com", "api.example.com"),
        ("aPi.ExAmple.com", "api.example.com"),
        ("www.example.com", "*.example.com"),
        ("a.www.example.com", "default.example"),
        ("example.com", "default.example"),
        ("unknown.test", "default.example"),
        ("127.0.0.1", "default.example"),
    ] {
        let names = shown(&server, asked);
        assert!(names.iter().any(|name| name == first_name), "{asked}: {names:?}");
        // The wildcard belongs to the certificate that comes first.
        assert_eq!(names.len(), if asked.to_lowercase().starts_with("api") { 2 } else { 1 }, "{asked}");
    }
}

#[test]
fn a_reload_is_seen_by_every_configuration_that_was_made_before() {
    let home = directory();
    let now = SystemTime::now();
    let files = issue(&home, "a", &["old.example"], now);
    let identity = TlsIdentity::from_list(vec![files.clone()]).expect("good");
    let keys = SharedKeys::generate().expect("keys");
    let quic = server_crypto(&identity, &keys, EarlyData::Off).expect("server");
    assert!(identity.reload(Reload::Changed).is_empty());
    let new = issue(&home, "b", &["new.example"], now);
    std::fs::rename(&new.chain, &files.chain).expect("renamed");
    // The chain is new and its key is not there yet: wait.
    assert!(identity.reload(Reload::Changed).is_empty());
    assert_eq!(shown(&quic, "old.example"), ["old.example"]);
    std::fs::rename(&new.key, &files.key).expect("renamed");
    let events = identity.clone().reload(Reload::Changed);
    let [ReloadEvent::Renewed { facts, warnings }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&facts.names[..], &warnings[..]), (&["new.example".to_owned()][..], &[][..]));
    assert_eq!(shown(&quic, "old.example"), ["new.example"]);
    assert_eq!(identity.certificates(), std::slice::from_ref(facts));
    assert_eq!((identity.stats().renewed(), identity.stats().refused()), (1, 0));
}

#[test]
fn a_bad_certificate_is_refused_once_and_holds_up_no_other() {
    let home = directory();
    let now = SystemTime::now();
    let (one, two) = (issue(&home, "one", &["one.example"], now), issue(&home, "two", &["two.example"], now));
    let identity = TlsIdentity::from_list(vec![one.clone(), two.clone()]).expect("good");
    let keys = SharedKeys::generate().expect("keys");
    let server = server_crypto(&identity, &keys, EarlyData::Off).expect("server");
    write(&one.chain, "nothing");
    let new = issue(&home, "new", &["two.example", "three.example"], now);
    std::fs::rename(&new.key, &two.key).expect("renamed");
    std::fs::rename(&new.chain, &two.chain).expect("renamed");
    let first = identity.reload(Reload::Changed);
    assert!(matches!(&first[..], [ReloadEvent::Renewed { .. }]), "{first:?}");
    assert_eq!(shown(&server, "three.example").len(), 2);
    let second = identity.reload(Reload::Changed);
    assert!(
        matches!(&second[..], [ReloadEvent::Refused { file, error: TlsError::NoCertificate { .. } }] if *file == one.chain),
        "{second:?}"
    );
    assert!(identity.reload(Reload::Changed).is_empty());
    assert_eq!(shown(&server, "one.example"), ["one.example"]);
    // Who asks is told again.
    assert_eq!(identity.reload(Reload::All).len(), 2);
    assert_eq!((identity.stats().renewed(), identity.stats().refused()), (2, 2));
}

#[test]
fn a_development_certificate_is_renewed_while_it_serves() {
    let home = directory();
    let now = SystemTime::now();
    let identity = development_for(home.path(), &names(), now).expect("made");
    let near = now + LEAF_LIFETIME - RENEW_BEFORE + DAY;
    assert!(identity.reload_at(Reload::Changed, now).is_empty());
    // The first look writes it, the second finds it written.
    let events: Vec<_> = (0..2).flat_map(|_| identity.reload_at(Reload::Changed, near)).collect();
    assert!(
        matches!(&events[..], [ReloadEvent::Renewed { facts, .. }] if facts.ends > near + RENEW_BEFORE),
        "{events:?}"
    );
    assert!(identity.reload_at(Reload::Changed, near).is_empty());
}

#[test]
fn tcp_has_protocols_of_its_own_and_shares_certificates_and_tickets() {
    let home = directory();
    let files = issue(&home, "a", &["localhost"], SystemTime::now());
    let identity = TlsIdentity::from_list(vec![files]).expect("good");
    let keys = SharedKeys::generate().expect("keys");
    let one = tcp_server_crypto(&identity, &keys).expect("server");
    let two = tcp_server_crypto(&identity, &keys.clone()).expect("server");
    assert_eq!(one.alpn_protocols, ALPN_TCP);
    assert_eq!(one.max_early_data_size, 0);
    let mut client = (*client_crypto(Trust::AnyServer).expect("client")).clone();
    for (offered, chosen) in [(&ALPN_TCP[..], ALPN_TCP[0]), (&ALPN_TCP[1..], ALPN_TCP[1])] {
        client.alpn_protocols = offered.iter().rev().map(|name| name.to_vec()).collect();
        let (server, _) = shake(&one, &Arc::new(client.clone()), "localhost").expect("a handshake");
        assert_eq!(server.alpn_protocol(), Some(chosen));
    }
    let (_, client) = shake(&two, &Arc::new(client), "localhost").expect("a handshake");
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn tickets_sealed_with_a_secret_from_a_file_outlive_the_process_and_a_reload() {
    let home = directory();
    let identity = development_for(home.path(), &names(), SystemTime::now()).expect("made");
    let client = client_crypto(Trust::AnyServer).expect("client");
    let (file, one, two) = (home.path().join("secrets"), "01".repeat(32), "02".repeat(32));
    write(&file, &one);
    let kind = |keys: &SharedKeys| {
        let server = server_crypto(&identity, keys, EarlyData::Off).expect("server");
        shake(&server, &client, "localhost").expect("a handshake").1.handshake_kind()
    };
    assert_eq!(kind(&SharedKeys::with_ticket_file(&file).expect("keys")), Some(HandshakeKind::Full));
    let again = SharedKeys::with_ticket_file(&file).expect("keys");
    assert_eq!(kind(&again), Some(HandshakeKind::Resumed));
    assert!(again.reload_tickets(Reload::Changed).is_none());
    write(&file, &format!("{two}\n{one}\n"));
    assert!(again.reload_tickets(Reload::Changed).expect("changed").is_ok());
    assert_eq!(kind(&again), Some(HandshakeKind::Resumed));
    write(&file, "none");
    assert!(again.reload_tickets(Reload::All).expect("asked").is_err());
    assert_eq!(kind(&again), Some(HandshakeKind::Resumed));
    assert!(SharedKeys::generate().expect("keys").reload_tickets(Reload::All).is_none());
}

/// What makes early data safe to take at most once (RFC 8446 section 8.1).
#[test]
fn a_session_for_early_data_is_taken_once_whichever_core_takes_it() {
    let keys = SharedKeys::generate().expect("keys");
    let (one, two) = (Arc::clone(&keys.sessions), keys.clone().sessions);
    assert!(one.put(vec![1], vec![2]));
    assert_eq!(two.take(&[1]), Some(vec![2]));
    assert_eq!((one.take(&[1]), two.take(&[1])), (None, None));
}

#[test]
fn every_fault_in_the_files_names_the_file() {
    let home = directory();
    let now = SystemTime::now();
    development_for(home.path(), &names(), now).expect("made");
    let path = |name: &str| home.path().join(name);
    let (leaf, key) = (path(LEAF_FILE), path(LEAF_KEY_FILE));
    write(&path("empty"), "");
    write(&path("torn"), "-----BEGIN CERTIFICATE-----\nMIIB");
    write(&path("odd"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let fails =
        |certificate: &Path, key: &Path| TlsIdentity::from_files(certificate, key).expect_err("refused");
    assert!(matches!(fails(&path("none"), &key), TlsError::File { file, .. } if file == path("none")));
    assert!(matches!(fails(&path("empty"), &key), TlsError::NoCertificate { file } if file == path("empty")));
    assert!(matches!(fails(&key, &key), TlsError::NoCertificate { file } if file == key));
    assert!(matches!(fails(&path("torn"), &key), TlsError::Pem { file, .. } if file == path("torn")));
    assert!(matches!(fails(&path("odd"), &key), TlsError::Unusable { file, .. } if file == path("odd")));
    assert!(matches!(fails(&leaf, &leaf), TlsError::NoKey { file } if file == leaf));
    assert!(matches!(fails(&leaf, &path(CA_KEY_FILE)), TlsError::KeyMismatch { .. }));
}

#[test]
fn a_host_name_that_is_no_dns_name_is_left_out() {
    assert!(names_for("Box-1.example").contains("box-1.example"));
    for host in ["", "(none)", "a_b", "a..b", "-a", "a-"] {
        assert_eq!(names_for(host).len(), 3, "{host}");
    }
}
