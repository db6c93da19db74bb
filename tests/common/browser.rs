//! A person's browser while an account is connected: our pages over HTTP/3, Google's over HTTP/1.1 from the simulator.

use super::h3::Answer;
use super::scene::Caller;

/// The origin that the gateway takes for its own when no port is set.
pub const ORIGIN: &str = "https://localhost";

/// One browser.
pub struct Browser {
    pub caller: Caller,
    pub cookie: Option<String>,
}

impl Browser {
    pub fn new(caller: Caller) -> Self {
        Self { caller, cookie: None }
    }

    fn fields<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut fields = more.to_vec();
        fields.extend(self.cookie.as_deref().map(|cookie| ("cookie", cookie)));
        fields
    }

    /// Looks at one of our pages.
    pub async fn look(&self, url: &str) -> Answer {
        self.caller.send("GET", path_of(url), &self.fields(&[]), "").await
    }

    /// Presses the button of a page, and keeps the cookie.
    pub async fn press(&mut self, url: &str) -> Answer {
        let form = [
            ("origin", ORIGIN),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let answer = self.caller.send("POST", path_of(url), &self.fields(&form), "").await;
        if let Some(cookie) = answer.field("set-cookie") {
            assert!(cookie.starts_with("__Host-"), "{cookie}");
            for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
                assert!(cookie.split("; ").any(|part| part == attribute), "{attribute}: {cookie}");
            }
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        answer
    }

    /// From a link to what Google sends the browser back to. `more` is added to what Google is asked, such as
    /// `&sim_consent=deny`.
    pub async fn consent(&mut self, url: &str, more: &str) -> String {
        let page = self.look(url).await;
        assert_page(&page, 200);
        let answer = self.press(url).await;
        assert_eq!(answer.status.as_u16(), 303, "{:?}", answer.body);
        let google = answer.field("location").expect("a location").to_owned();
        google_answers(&google, more).await
    }

    /// The whole way; gives the last page.
    pub async fn connect(&mut self, url: &str, more: &str) -> Answer {
        let callback = self.consent(url, more).await;
        self.look(&callback).await
    }
}

/// Where Google, asked by a browser, sends it back to.
pub async fn google_answers(url: &str, more: &str) -> String {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let answer = client.expect("a client").get(format!("{url}{more}")).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 302, "{url}");
    let location = answer.headers().get("location").expect("a location");
    location.to_str().expect("ASCII").to_owned()
}

/// The path, with what follows it.
pub fn path_of(url: &str) -> &str {
    url.strip_prefix(ORIGIN).unwrap_or(url)
}

/// Checks what each of our pages has, and gives its text.
pub fn assert_page(answer: &Answer, status: u16) -> String {
    let page = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    assert_eq!(answer.status.as_u16(), status, "{page}");
    assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"), "{page}");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    let policy = answer.field("content-security-policy").expect("a policy");
    for part in ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action "] {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    assert!(!policy.contains("script") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.contains("<script"), "{page}");
    page
}
