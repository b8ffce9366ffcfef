//! A go-plugin host in Rust: what a Vault or OpenBao server is to a plugin.
//!
//! Does as the Go one does: a self-signed P-521 authority certificate as its own leaf, mutual TLS
//! both ways, one broker stream, a fresh socket for each mount, metadata `multiplex_id`. Checks the
//! plugin's certificate as Go does: by path, name and usage. If the plugin was asked to, all of it
//! runs over one socket.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Server as GrpcServer, Uri};
use tonic::{Request, Status};
use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::goplugin::{Ending, HostEnv, Logging, Server};
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::proto::pb::backend_client::BackendClient;
use vault_plugin_secrets_smtp::proto::pb::storage_server::StorageServer;
use vault_plugin_secrets_smtp::proto::pb::system_view_server::SystemViewServer;
use vault_plugin_secrets_smtp::proto::plugin::grpc_broker_client::GrpcBrokerClient;
use vault_plugin_secrets_smtp::proto::plugin::grpc_controller_client::GrpcControllerClient;
use vault_plugin_secrets_smtp::proto::plugin::{ConnInfo, Empty};
use vault_plugin_secrets_smtp::tasks::Tasks;
use vault_plugin_secrets_smtp::wire::{BackendFactory, PROTOCOL, Plugin, ServerInfo, Services};

use super::host_mux::{Door, HostMux, MuxStream};
use super::host_services::{ActiveNode, MapStorage};

/// The built plugin.
pub const BINARY: &str = env!("CARGO_BIN_EXE_vault-plugin-secrets-smtp");
/// Patience of a test with a process; scaled for a busy machine, never reached by a good run.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A host's one-off certificate.
pub struct Identity {
    pub pem: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Makes a certificate like Go's: P-521, self-signed, an authority, both uses.
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let mut params = rcgen::CertificateParams::new([String::from("localhost")]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "HashiCorp");
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::DigitalSignature,
            rcgen::KeyUsagePurpose::KeyEncipherment,
            rcgen::KeyUsagePurpose::KeyAgreement,
            rcgen::KeyUsagePurpose::KeyCertSign,
        ];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// Shows this identity's certificate without having its key.
    pub fn forged(&self) -> Self {
        Self {
            pem: self.pem.clone(),
            certificate: self.certificate.clone(),
            key: Self::new().key,
        }
    }

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        Arc::new(rustls::crypto::aws_lc_rs::default_provider())
    }

    fn roots(plugin: &CertificateDer<'static>) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(plugin.clone()).unwrap();
        Arc::new(roots)
    }

    /// What the host with this identity connects with.
    pub fn connector(&self, plugin: &CertificateDer<'static>) -> TlsConnector {
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            vec![self.certificate.clone()],
            Self::provider()
                .key_provider
                .load_private_key(self.key.clone_key())
                .unwrap(),
        )));
        let config = Self::client(plugin).with_client_cert_resolver(certified);
        Self::speaking_h2(config)
    }

    /// What somebody without a certificate connects with.
    pub fn anonymous(plugin: &CertificateDer<'static>) -> TlsConnector {
        Self::speaking_h2(Self::client(plugin).with_no_client_auth())
    }

    fn client(
        plugin: &CertificateDer<'static>,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        ClientConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Self::roots(plugin))
    }

    fn speaking_h2(mut config: ClientConfig) -> TlsConnector {
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    fn acceptor(&self, plugin: &CertificateDer<'static>) -> TlsAcceptor {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Self::roots(plugin), Self::provider())
                .build()
                .unwrap();
        let mut config = ServerConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A parsed handshake line.
#[derive(Debug, Clone)]
pub struct Handshake {
    pub segments: Vec<String>,
}

impl Handshake {
    pub fn parse(line: &str) -> Self {
        let bare = line.strip_suffix('\n').expect("the line has an end");
        Self {
            segments: bare.split('|').map(str::to_owned).collect(),
        }
    }

    pub fn socket(&self) -> &Path {
        Path::new(&self.segments[3])
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from(STANDARD_NO_PAD.decode(&self.segments[5]).unwrap())
    }

    /// Opens a connection as the host with this identity, and says nothing on it.
    pub async fn open(&self, identity: &Identity) -> TlsStream<UnixStream> {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let tls = identity.connector(&self.certificate());
        let name = "localhost".try_into().unwrap();
        tls.connect(name, stream).await.unwrap()
    }

    /// Whether the plugin has one socket for everything.
    pub fn is_multiplexed(&self) -> bool {
        self.segments.get(6).is_some_and(|it| it == "true")
    }

    /// Connects as the host with this identity, on a socket of its own.
    pub async fn connect(&self, identity: &Identity) -> Result<Channel, tonic::transport::Error> {
        self.connect_through(identity, None).await
    }

    /// Connects as the host with this identity, in `mux` if there is one.
    pub async fn connect_through(
        &self,
        identity: &Identity,
        mux: Option<HostMux>,
    ) -> Result<Channel, tonic::transport::Error> {
        let tls = identity.connector(&self.certificate());
        let socket = self.socket().to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, socket, mux) = (tls.clone(), socket.clone(), mux.clone());
            async move {
                let stream = match mux {
                    None => Either::Left(UnixStream::connect(socket).await?),
                    Some(mux) => Either::Right(mux.dial().await?),
                };
                let name = "localhost".try_into().unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
    }
}

/// The command a host runs, with what it sets; the socket goes to `dir`.
pub fn command(identity: &Identity, dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env_clear()
        .env(PROTOCOL.cookie.key, PROTOCOL.cookie.value)
        .env("PLUGIN_PROTOCOL_VERSIONS", "5")
        .env("PLUGIN_CLIENT_CERT", &identity.pem)
        .env("PLUGIN_UNIX_SOCKET_DIR", dir)
        .env("BAO_VERSION", "2.7.2")
        .env("BAO_PLUGIN_METADATA_MODE", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The same of a host that wants one socket for everything.
pub fn multiplexing_command(identity: &Identity, dir: &Path) -> Command {
    let mut command = command(identity, dir);
    command.env("PLUGIN_MULTIPLEX_GRPC", "true");
    command
}

/// A plugin process that said its line.
pub struct Process {
    pub child: Child,
    pub handshake: Handshake,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Starts `command` and reads the handshake line.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(
            !line.is_empty(),
            "no handshake: {}",
            read(child.stderr.take())
        );
        Self {
            child,
            handshake: Handshake::parse(&line),
            stdout,
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end; returns its status, the rest of stdout, and stderr.
    pub async fn ended(mut self) -> (ExitStatus, String, String) {
        let end = tokio::time::Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(tokio::time::Instant::now() < end, "the plugin lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        (status, stdout, read(self.child.stderr.take()))
    }
}

fn read(stderr: Option<std::process::ChildStderr>) -> String {
    let mut text = String::new();
    stderr.unwrap().read_to_string(&mut text).unwrap();
    text
}

/// A host connected to one plugin.
pub struct Host {
    identity: Identity,
    plugin: CertificateDer<'static>,
    pub channel: Channel,
    /// The session, if all connections share one socket.
    pub mux: Option<HostMux>,
    broker: mpsc::Sender<ConnInfo>,
    dir: PathBuf,
    next: u32,
    interruption: Arc<Notify>,
    tasks: Tasks,
}

impl Host {
    /// Connects and opens the broker stream, as a server does right after the handshake.
    pub async fn connect(identity: Identity, handshake: &Handshake, dir: &Path) -> Self {
        let tasks = Tasks::new();
        let mux = if handshake.is_multiplexed() {
            Some(HostMux::connect(handshake.socket(), &tasks).await)
        } else {
            None
        };
        let channel = handshake.connect_through(&identity, mux.clone()).await;
        let channel = channel.unwrap();
        let (broker, outbound) = mpsc::channel(8);
        let mut inbound = GrpcBrokerClient::new(channel.clone())
            .start_stream(ReceiverStream::new(outbound))
            .await
            .unwrap()
            .into_inner();
        let stop = tasks.cancelled();
        let (doors, answers) = (mux.clone(), broker.downgrade());
        tasks.spawn(async move {
            let knocks = async {
                while let Ok(Some(info)) = inbound.message().await {
                    for answer in doors.as_ref().expect("a knock").knocked(&info) {
                        if let Some(answers) = answers.upgrade() {
                            let _ = answers.send(answer).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = knocks => {}
            }
        });
        Self {
            plugin: handshake.certificate(),
            identity,
            channel,
            mux,
            broker,
            dir: dir.to_owned(),
            next: 0,
            interruption: Arc::default(),
            tasks,
        }
    }

    /// Answers the knocks that were left waiting.
    pub async fn answer_late(&self) {
        for answer in self.mux.as_ref().unwrap().answer_late() {
            self.broker.send(answer).await.unwrap();
        }
    }

    /// Ends every brokered connection; new ones are taken.
    pub fn interrupt(&self) {
        self.interruption.notify_waiters();
    }

    /// Sets a mount up, its storage served on a socket of its own.
    pub async fn mount(&mut self, uuid: &str, storage: MapStorage) -> Mount {
        let mount = self.unmounted(&format!("multiplex-{uuid}"));
        let broker_id = self.serve(storage).await;
        let args = pb::SetupArgs {
            broker_id,
            config: std::collections::HashMap::new(),
            backend_uuid: uuid.to_owned(),
        };
        let reply = mount.client().setup(mount.call(args)).await.unwrap();
        assert_eq!(reply.into_inner().err, "");
        mount
    }

    /// A handle to a mount the plugin has not been told of.
    pub fn unmounted(&self, multiplex_id: &str) -> Mount {
        Mount {
            channel: self.channel.clone(),
            multiplex_id: multiplex_id.to_owned(),
        }
    }

    /// Announces a connection where nobody listens.
    pub async fn announce_nobody(&mut self) -> u32 {
        self.next += 1;
        let address = self.dir.join("nobody");
        self.announce(self.next, &address).await;
        self.next
    }

    async fn announce(&self, id: u32, address: &Path) {
        let info = ConnInfo {
            service_id: id,
            network: String::from("unix"),
            address: address.to_str().unwrap().to_owned(),
            knock: None,
        };
        self.broker.send(info).await.unwrap();
    }

    /// Serves a storage without a mount; returns the number of its connection.
    pub async fn serve(&mut self, storage: MapStorage) -> u32 {
        self.next += 1;
        let id = self.next;
        let address = self.dir.join(format!("host-{id}"));
        let entrance = Arc::new(match &self.mux {
            None => Entrance::Socket(UnixListener::bind(&address).unwrap()),
            Some(mux) => Entrance::Door(mux.door(id)),
        });
        let acceptor = self.identity.acceptor(&self.plugin);
        let (stop, interruption) = (self.tasks.cancelled(), Arc::clone(&self.interruption));
        self.tasks.spawn(async move {
            while !stop.is_cancelled() {
                let entering = (Arc::clone(&entrance), acceptor.clone());
                let connections = futures_util::stream::unfold(entering, |entering| async {
                    let stream = entering.0.accept().await?;
                    let tls = entering.1.accept(stream).await;
                    Some((tls.map(Connection), entering))
                });
                let ended = async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = interruption.notified() => {}
                    }
                };
                let storage = StorageServer::new(storage.clone());
                GrpcServer::builder()
                    .add_service(storage.max_decoding_message_size(64 << 20))
                    .add_service(SystemViewServer::new(ActiveNode))
                    .serve_with_incoming_shutdown(connections, ended)
                    .await
                    .unwrap();
            }
        });
        if self.mux.is_none() {
            self.announce(id, &address).await;
        }
        id
    }

    /// Asks the plugin to end, as a server does.
    pub async fn shut_down(&self) -> Result<(), Status> {
        GrpcControllerClient::new(self.channel.clone())
            .shutdown(Empty {})
            .await
            .map(drop)
    }

    /// Goes away without a word: every connection is closed.
    pub async fn vanish(self) {
        self.tasks.stop(PATIENCE).await;
    }
}

/// One mount, as the host sees it.
#[derive(Clone)]
pub struct Mount {
    channel: Channel,
    multiplex_id: String,
}

impl Mount {
    pub fn client(&self) -> BackendClient<Channel> {
        BackendClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// Adds the mount's id to a call.
    pub fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.multiplex_id.is_empty() {
            let id = self.multiplex_id.parse().unwrap();
            request.metadata_mut().insert("multiplex_id", id);
        }
        request
    }

    pub async fn initialize(&self) -> Option<pb::ProtoError> {
        let call = self.call(pb::InitializeArgs {});
        self.client()
            .initialize(call)
            .await
            .unwrap()
            .into_inner()
            .err
    }

    pub async fn cleanup(&self) -> Result<(), Status> {
        let call = self.call(pb::Empty {});
        self.client().cleanup(call).await.map(drop)
    }

    /// Sends a request; `data` is JSON or what is to be taken for it.
    pub async fn handle(
        &self,
        operation: &str,
        path: &str,
        data: &str,
    ) -> Result<pb::HandleRequestReply, Status> {
        let request = pb::Request {
            operation: operation.to_owned(),
            path: path.to_owned(),
            data: data.to_owned(),
            ..pb::Request::default()
        };
        let call = self.call(pb::HandleRequestArgs {
            storage_id: 0,
            request: Some(request),
        });
        let reply = self.client().handle_request(call).await?.into_inner();
        Ok(reply)
    }

    /// Sends a request that must be answered with an error of the plugin.
    pub async fn refused(&self, operation: &str, path: &str, data: &str) -> pb::ProtoError {
        let reply = self.handle(operation, path, data).await.unwrap();
        assert!(reply.response.is_none());
        reply.err.expect("an error")
    }

    /// Sends a request that must succeed; returns the data, `null` for nothing.
    pub async fn answered(&self, operation: &str, path: &str, data: &str) -> serde_json::Value {
        let reply = self.handle(operation, path, data).await.unwrap();
        if let Some(error) = reply.err {
            panic!("{operation} {path}: {}", error.err_msg);
        }
        let text = reply
            .response
            .map_or_else(|| String::from("null"), |answer| answer.data);
        serde_json::from_str(&text).expect("replies are valid JSON")
    }
}

/// A plugin inside the test process, with a backend of the test's choice.
pub struct InProcess {
    pub handshake: Handshake,
    pub ended: tokio::task::JoinHandle<Ending>,
}

impl InProcess {
    /// Binds and serves; everything of the real thing but signals, stdout and the logger.
    pub fn start(identity: &Identity, dir: &Path, factory: BackendFactory) -> Self {
        Self::start_for(identity, dir, factory, false)
    }

    /// The same for a host that may want one socket for everything.
    pub fn start_for(
        identity: &Identity,
        dir: &Path,
        factory: BackendFactory,
        multiplexing: bool,
    ) -> Self {
        let variables = [
            ("PLUGIN_CLIENT_CERT", identity.pem.as_str()),
            ("PLUGIN_UNIX_SOCKET_DIR", dir.to_str().unwrap()),
            (
                "PLUGIN_MULTIPLEX_GRPC",
                if multiplexing { "true" } else { "" },
            ),
        ];
        let env = HostEnv::parse(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let server = Server::bind(&PROTOCOL, &env.unwrap()).unwrap();
        let handshake = Handshake::parse(&server.handshake_line());
        let plugin = Plugin {
            version: "1.2.3",
            logging: Logging {
                level_variable: "",
                target: "",
            },
            clock: Arc::new(SystemClock::new()),
            server: ServerInfo::default(),
            factory,
        };
        let services = Services::new();
        let routes = services.routes(&plugin, server.broker());
        let ended = Tasks::new().spawn(async move {
            let never = std::future::pending();
            server
                .run(routes, never, services.clean_up())
                .await
                .unwrap()
        });
        Self { handshake, ended }
    }
}

/// Where brokered connections for one number come in.
enum Entrance {
    Socket(UnixListener),
    Door(Door),
}

impl Entrance {
    async fn accept(&self) -> Option<Either<UnixStream, MuxStream>> {
        match self {
            Self::Socket(socket) => Some(Either::Left(socket.accept().await.unwrap().0)),
            Self::Door(door) => door.accept().await.map(Either::Right),
        }
    }
}

/// A brokered connection on the host's side.
struct Connection(tokio_rustls::server::TlsStream<Either<UnixStream, MuxStream>>);

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

mod io {
    //! `Connection` is its stream.

    use std::io::Result;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Connection;

    impl AsyncRead for Connection {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}
