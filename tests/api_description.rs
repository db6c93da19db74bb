//! The description of the API against what the routes really do, by a client that knows nothing but the description.

mod common;

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::python;
use common::scene::Scene;
use sha2::{Digest, Sha256};

/// Requests made up for each operation and phase.
const EXAMPLES: &str = "6";
/// So that a run can be repeated; another value tries other requests.
const SEED: &str = "20261123";
/// What must hold for each answer. Left out: that everything valid is accepted, since made-up ids lead nowhere.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,ignored_auth,\
    unsupported_method";

#[tokio::test]
async fn the_description_is_served_to_anyone_and_names_every_route() {
    let scene = Scene::start(1, &[]);
    let caller = scene.caller().await;
    let answer = caller.send("GET", "/openapi.json", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.field("content-type")), (200, Some("application/json")));
    let document = answer.value();
    assert_eq!(document["openapi"], "3.1.0");
    for path in document["paths"].as_object().expect("paths").keys() {
        let path = path
            .replace("{id}", "x")
            .replace("{key}", "x")
            .replace("{permission}", "y")
            .replace("{name}", "x")
            .replace("{version}", "1")
            .replace("{ticket}", "x");
        let options = caller.send("OPTIONS", &path, &[], "").await;
        assert_eq!(options.status.as_u16(), 204, "{path}");
    }
}

#[tokio::test]
async fn the_description_is_a_page_as_well_that_loads_nothing_and_runs_its_own_script_alone() {
    let scene = Scene::start(1, &[]);
    let caller = scene.caller().await;
    let answer = caller.send("GET", "/docs", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = answer.field("content-security-policy").expect("a policy");
    let page = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    // Style and script are the page's own, whole, and named by what they are.
    let hash = |tag: &str| {
        let parts: Vec<&str> = page.split(&format!("<{tag}>")).collect();
        assert_eq!((parts.len(), page.matches(&format!("<{tag}")).count()), (2, 1), "one {tag}");
        let text = parts[1].split(&format!("</{tag}>")).next().expect("its end");
        STANDARD.encode(Sha256::digest(text))
    };
    let expected = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("style"),
        hash("script")
    );
    assert_eq!(policy, expected);
    let document = caller.send("GET", "/openapi.json", &[], "").await.value();
    for path in document["paths"].as_object().expect("paths").keys() {
        assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
    }
    let tag = answer.field("etag").expect("a tag");
    let known = caller.send("GET", "/docs", &[("if-none-match", tag)], "").await;
    assert_eq!((known.status.as_u16(), known.field("etag"), known.body.len()), (304, Some(tag), 0));
    let changed = caller.send("GET", "/docs", &[("if-none-match", "\"other\"")], "").await;
    assert_eq!(changed.status.as_u16(), 200);
}

#[test]
fn answers_are_what_the_description_says() {
    let Some(program) = python::schemathesis() else { return };
    // One user sends here what the quotas are for thousands.
    let quotas = [
        "quota.gmail_user_units_per_minute=1000000",
        "quota.calendar_user_units_per_minute=10000",
        "quota.drive_user_units_per_minute=1000000",
    ];
    let scene = Scene::start(2, &quotas);
    let key = scene.gateway.user("ada");
    let url = format!("https://localhost:{}", scene.gateway.address.port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(program)
        .arg("--config-file")
        .arg(python::file("schemathesis.toml"))
        .args([
            "run",
            &format!("{url}/openapi.json"),
            "--checks",
            CHECKS,
            "--phases",
            "examples,coverage,fuzzing",
        ])
        // One worker: two threads of Python 3.11 that parse its source at once now and then fail (AST recursion depth).
        .args(["--max-examples", EXAMPLES, "--seed", SEED, "--generation-database", "none", "--workers", "1"])
        .args(["--header", &format!("Authorization: Bearer {key}"), "--continue-on-failure", "--no-color"])
        .args(["--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "30"])
        // Each wrong key counts against the address, from which all the rest comes.
        .args(["--exclude-operation-id", "sign_in"])
        .arg("--tls-verify")
        .arg(scene.gateway.ca())
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .expect("schemathesis runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
}
