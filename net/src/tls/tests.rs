use std::os::unix::fs::PermissionsExt;

use rustls::{CipherSuite, ClientConnection, HandshakeKind, ServerConnection};
use tempfile::TempDir;

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
    let identity = TlsIdentity::development_for(home.path(), &names(), SystemTime::now()).expect("made");
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
    let identity = TlsIdentity::development_for(home.path(), &names(), now).expect("made");
    let other = TlsIdentity::development_for(stranger.path(), &names(), now).expect("made");
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
    let identity = TlsIdentity::development_for(home.path(), &names(), SystemTime::now()).expect("made");
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
    let identity = TlsIdentity::development_for(home.path(), &names(), SystemTime::now()).expect("made");
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
fn the_authority_is_made_once_and_keys_are_private() {
    let home = directory();
    let now = SystemTime::now();
    TlsIdentity::development_for(home.path(), &names(), now).expect("made");
    let before =
        [DEVELOPMENT_CA_FILE, CA_KEY_FILE, LEAF_FILE, LEAF_KEY_FILE].map(|name| text(home.path().join(name)));
    TlsIdentity::development_for(home.path(), &names(), now).expect("loaded");
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
    TlsIdentity::development_for(home.path(), &names(), now).expect("made");
    let authority = text(home.path().join(DEVELOPMENT_CA_FILE));

    let first = leaf();
    TlsIdentity::development_for(home.path(), &names(), now + LEAF_LIFETIME - RENEW_BEFORE - DAY)
        .expect("loaded");
    assert_eq!(leaf(), first);
    TlsIdentity::development_for(home.path(), &names(), now + LEAF_LIFETIME - RENEW_BEFORE + DAY)
        .expect("renewed");
    let second = leaf();
    assert_ne!(second, first);

    TlsIdentity::development_for(home.path(), &names_for("moved.example"), now + LEAF_LIFETIME)
        .expect("renewed");
    let third = leaf();
    assert_ne!(third, second);

    write(&home.path().join(LEAF_KEY_FILE), &KeyPair::generate().expect("a key").serialize_pem());
    TlsIdentity::development_for(home.path(), &names_for("moved.example"), now + LEAF_LIFETIME)
        .expect("mended");
    assert_ne!(leaf(), third);
    assert_eq!(text(home.path().join(DEVELOPMENT_CA_FILE)), authority);
}

#[test]
fn a_leaf_of_another_authority_is_replaced() {
    let (home, stranger) = (directory(), directory());
    let now = SystemTime::now();
    TlsIdentity::development_for(home.path(), &names(), now).expect("made");
    TlsIdentity::development_for(stranger.path(), &names(), now).expect("made");
    for name in [LEAF_FILE, LEAF_KEY_FILE] {
        std::fs::copy(stranger.path().join(name), home.path().join(name)).expect("copied");
    }
    TlsIdentity::development_for(home.path(), &names(), now).expect("replaced");
    assert_ne!(text(home.path().join(LEAF_FILE)), text(stranger.path().join(LEAF_FILE)));
}

#[test]
fn an_authority_without_its_key_is_not_replaced_behind_the_clients_backs() {
    let home = directory();
    let now = SystemTime::now();
    TlsIdentity::development_for(home.path(), &names(), now).expect("made");
    std::fs::remove_file(home.path().join(CA_KEY_FILE)).expect("removed");
    let error = TlsIdentity::development_for(home.path(), &names(), now).expect_err("refused");
    assert!(matches!(error, TlsError::AuthorityKeyMissing { .. }), "{error}");
}

#[test]
fn an_expired_certificate_is_used_with_a_warning() {
    let home = directory();
    let long_ago = SystemTime::now() - LEAF_LIFETIME - DAY;
    let issuer =
        make_authority(&home.path().join("a.pem"), &home.path().join("a.key"), long_ago).expect("made");
    let (leaf, key) = (home.path().join("l.pem"), home.path().join("l.key"));
    make_leaf(&issuer, &leaf, &key, &names(), long_ago).expect("made");
    let identity = TlsIdentity::from_files(&leaf, &key).expect("used");
    assert!(matches!(identity.warnings(), [TlsWarning::Expired { .. }]), "{:?}", identity.warnings());
    assert!(identity.authority().is_none());

    make_leaf(&issuer, &leaf, &key, &names(), SystemTime::now() + DAY * 3).expect("made");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("changed");
    let identity = TlsIdentity::from_files(&leaf, &key).expect("used");
    let warnings = identity.warnings();
    assert!(
        matches!(warnings, [TlsWarning::NotYetValid { .. }, TlsWarning::KeyReadableByAll]),
        "{warnings:?}"
    );
}

#[test]
fn every_fault_in_the_files_names_the_file() {
    let home = directory();
    let now = SystemTime::now();
    TlsIdentity::development_for(home.path(), &names(), now).expect("made");
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
