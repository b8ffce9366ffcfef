//! A stand-in with an HTTP client that trusts it and an SMTP client.

use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use reqwest::{Client, Method};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;

use crate::support::mailu::standin::{Config, MailuStandin};

pub(super) const EMAIL: &str = "smtp-admin@example.test";
pub(super) const USER: &str = "/user/smtp-admin@example.test";

pub(super) struct Rig {
    pub(super) mailu: MailuStandin,
    pub(super) client: Client,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(Config::default().user(EMAIL, "first")).await
    }

    pub(super) async fn with(config: Config) -> Self {
        let mailu = MailuStandin::start(config).await.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(mailu.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { mailu, client }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/api/v1{path}", self.mailu.url());
        self.client
            .request(method, url)
            .bearer_auth(self.mailu.token())
    }

    /// Sends a call and returns its status and its JSON, or null for a page.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    pub(super) async fn patch(&self, body: Value) -> (u16, Value) {
        self.call(Method::PATCH, USER, Some(body)).await
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn status_with(&self, authorization: &str) -> u16 {
        let url = format!("{}/api/v1{USER}", self.mailu.url());
        let request = self.client.get(url).header("authorization", authorization);
        request.send().await.unwrap().status().as_u16()
    }

    pub(super) async fn logs_in(&self, password: &str) -> bool {
        let answer = self.smtp(true, Mechanism::Plain, password).await;
        answer.starts_with("235")
    }

    /// Logs in over SMTP; returns the reply's first line or the refusal's text.
    pub(super) async fn smtp(
        &self,
        implicit: bool,
        mechanism: Mechanism,
        password: &str,
    ) -> String {
        let name = ClientId::Domain("client.test".to_owned());
        let ca = Certificate::from_pem(self.mailu.ca_pem().as_bytes()).unwrap();
        let tls = TlsParameters::builder("localhost".to_owned())
            .add_root_certificate(ca)
            .build_rustls()
            .unwrap();
        let timeout = Some(Duration::from_secs(10));
        let (port, wrap) = if implicit {
            (self.mailu.smtps_port(), Some(tls.clone()))
        } else {
            (self.mailu.submission_port(), None)
        };
        let server = ("127.0.0.1", port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, timeout, &name, wrap, None)
                .await
                .unwrap();
        if !implicit {
            connection.starttls(tls, &name).await.unwrap();
        }
        let secret = Credentials::new(EMAIL.to_owned(), password.to_owned());
        match connection.auth(&[mechanism], &secret).await {
            Ok(reply) => format!(
                "{} {}",
                reply.code(),
                reply.first_line().unwrap_or_default()
            ),
            Err(error) => error.to_string(),
        }
    }
}
