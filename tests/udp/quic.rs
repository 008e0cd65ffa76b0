//! QUIC by quinn, client and servers, through the balancer: 50 MB there and back, and a client whose port changes on the
//! way. Clients are told apart by address and port, so that only hashing by address keeps such a client at its server.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::support::ringway::{Setup, pool};
use super::support::servers::{program, text_of};
use super::support::wait::{seconds, until};
use super::support::{alone, net};
use super::{pattern_bytes, udp_listener};

const NAME: &str = "quic.test";
const PIECE: usize = 1_000_000;
const PIECES: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate that is its own authority, and its key.
fn credentials(folder: &Path) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let (key, certificate) = (folder.join("key"), folder.join("crt"));
    let mut make = Command::new(program("openssl", "openssl"));
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    make.args(["-nodes", "-days", "2", "-subj", "/CN=quic"]);
    make.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
    make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    make.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    text_of(make.stderr(Stdio::null()));
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    (certificate, PrivateKeyDer::from_pem_file(key).unwrap())
}

/// A server that sends each stream back, and counts its connections.
struct Quic {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    _endpoint: Endpoint,
}

impl Quic {
    fn start(certificate: &CertificateDer<'static>, key: &PrivateKeyDer<'static>) -> Quic {
        let chain = vec![certificate.clone()];
        let config = ServerConfig::with_single_cert(chain, key.clone_key()).unwrap();
        let address = net::free_address();
        let endpoint = Endpoint::server(config, address).unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let (accepting, counted) = (endpoint.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        echo(&connection).await;
                    }
                });
            }
        });
        Quic {
            address,
            connections,
            _endpoint: endpoint,
        }
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn echo(connection: &Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        tokio::spawn(async move {
            if let Ok(bytes) = receive.read_to_end(PIECE).await
                && send.write_all(&bytes).await.is_ok()
            {
                let _ = send.finish();
            }
        });
    }
}

/// Sends one piece and reads it back.
async fn exchange(connection: &Connection, number: u64) -> bool {
    let question = pattern_bytes(number, PIECE);
    let Ok((mut send, mut receive)) = connection.open_bi().await else {
        return false;
    };
    if send.write_all(&question).await.is_err() || send.finish().is_err() {
        return false;
    }
    receive.read_to_end(PIECE).await.is_ok_and(|answer| {
        assert!(answer == question, "piece {number} came back as another");
        true
    })
}

fn client(certificate: &CertificateDer<'static>) -> Endpoint {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let socket = UdpSocket::bind((net::host(), 0)).unwrap();
    let runtime = Arc::new(TokioRuntime);
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

#[test]
fn quic_moves_50_mb_and_outlives_a_change_of_port_where_addresses_are_hashed() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = credentials(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let servers = [
            Quic::start(&certificate, &key),
            Quic::start(&certificate, &key),
        ];
        let front = net::free_address();
        let backends = [("one", servers[0].address), ("two", servers[1].address)];
        let lines = "algorithm = \"maglev\"\nhash_key = \"address\"";
        let text = udp_listener("front", front, "p") + &pool("p", lines, &backends);
        let ringway = Setup::new(text).workers(2).start();
        let endpoint = client(&certificate);
        let connection = endpoint.connect(front, NAME).unwrap();
        let connection = tokio::time::timeout(PATIENCE, connection)
            .await
            .expect("in time")
            .expect("a QUIC connection");
        let began = std::time::Instant::now();
        for number in 0..PIECES {
            if number % 10 == 5 {
                // As after a NAT has forgotten the client.
                let socket = UdpSocket::bind((net::host(), 0)).unwrap();
                endpoint.rebind(socket).unwrap();
            }
            let exchanged = tokio::time::timeout(PATIENCE, exchange(&connection, number)).await;
            assert_eq!(exchanged, Ok(true), "piece {number}");
        }
        let took = began.elapsed();
        // One connection, at one of the servers, over six flows.
        let served = servers.iter().map(Quic::connections).sum::<u64>();
        assert_eq!(served, 1);
        let flows = || ringway.metric("ringway_udp_flows_total");
        until(seconds(5), "six flows are told", || flows() >= 6.0);
        assert_eq!(flows(), 6.0);
        println!(
            "QUIC: {PIECES} MB there and back in {} ms, five changes of port",
            took.as_millis()
        );
        connection.close(0u32.into(), b"");
    });
}
