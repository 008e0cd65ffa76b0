//! Real servers that only the tests of health checks drive: nginx, NSD, memcached, and Redis in the states that a check
//! must tell apart. Started as those in `servers` are.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::net;
use super::servers::{Server, program};
use super::wait::{seconds, until};

/// Redis in a folder of the caller's, with these options beside the usual; waited for until it accepts connections,
/// whatever it then says.
pub fn redis(address: SocketAddr, folder: &Path, options: &[&str]) -> Server {
    let mut command = Command::new(program("redis-server", "redis-server"));
    command.args(["--bind", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no"]);
    command.args(["--dir", &folder.to_string_lossy()]);
    let server = Server::start(command.args(options), "TERM");
    until_it_accepts(address, "Redis");
    server
}

fn until_it_accepts(address: SocketAddr, name: &str) {
    until(seconds(10), &format!("{name} accepts connections"), || {
        net::try_connect(address).is_ok()
    });
}

/// nginx that answers `/health` with 204, `/sick` with 503 and everything else with 404.
pub fn nginx(address: SocketAddr, folder: &Path) -> Server {
    let folder = folder.to_string_lossy();
    let text = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
         events {{ worker_connections 64; }}
         http {{ access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
           uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
           server {{ listen {address}; server_name localhost;
             location = /health {{ return 204; }} location = /sick {{ return 503; }} location / {{ return 404; }} }} }}"
    );
    let file = format!("{folder}/nginx.conf");
    fs::write(&file, text).expect("nginx's configuration");
    let mut command = Command::new(program("nginx", "nginx"));
    command.args(["-c", &file, "-e", &format!("{folder}/start.log")]);
    let server = Server::start(&mut command, "QUIT");
    until_it_accepts(address, "nginx");
    server
}

/// NSD with the zone `example.test` and nothing else; it refuses other names.
pub fn nsd(address: SocketAddr, folder: &Path) -> Server {
    let zone = "$ORIGIN example.test.\n$TTL 60\n@ IN SOA ns hostmaster 1 60 60 60 60\n@ IN NS ns\nns IN A 127.0.0.1\n\
                www IN A 192.0.2.1\n";
    fs::write(folder.join("zone"), zone).expect("a zone file");
    let path = folder.to_string_lossy();
    let (ip, port) = (address.ip(), address.port());
    let text = format!(
        "server:\n  ip-address: {ip}\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"{path}/pid\"\n  \
         xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/zones\"\n  xfrdir: \"{path}\"\n  database: \"\"\n  \
         zonesdir: \"{path}\"\n  rrl-ratelimit: 0\n  server-count: 1\nremote-control:\n  control-enable: no\nzone:\n  \
         name: example.test\n  zonefile: zone\n"
    );
    let file = format!("{path}/nsd.conf");
    fs::write(&file, text).expect("NSD's configuration");
    let server = Server::start(
        Command::new(program("nsd", "nsd")).args(["-d", "-c", &file]),
        "TERM",
    );
    let socket = UdpSocket::bind((net::host(), 0)).expect("a datagram socket");
    socket.connect(address).expect("an address");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    until(seconds(10), "NSD answers", || {
        let _ = socket.send(b"\0\x01\0\0\0\x01\0\0\0\0\0\0\x07example\x04test\0\0\x06\0\x01");
        socket.recv(&mut [0; 512]).is_ok()
    });
    server
}

pub fn memcached(address: SocketAddr) -> Server {
    let mut command = Command::new(program("memcached", "memcached"));
    command.args(["-l", &address.ip().to_string()]);
    command.args(["-p", &address.port().to_string()]);
    command.args(["-U", "0", "-u", "root", "-m", "8"]);
    let server = Server::start(&mut command, "TERM");
    until_it_accepts(address, "memcached");
    server
}
