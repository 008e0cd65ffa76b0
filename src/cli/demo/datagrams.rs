//! The demo's half that is datagrams: what each backend does with one, and clients that ask by them. A datagram may be lost,
//! so a client that hears nothing asks again, as one of DNS does; an answer that is not to its question is a failure.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;

/// Clients with a socket each, and so a flow each.
pub(super) const CLIENTS: u64 = 8;
/// Without an answer by then a client asks again.
const PATIENCE: Duration = Duration::from_millis(100);
const THOUGHT: Duration = Duration::from_millis(10);
const LONGEST: usize = 512;

/// Answers each datagram with the backend's name and what it was asked.
pub(super) async fn serve(name: &'static str, socket: std::net::UdpSocket) {
    let Ok(socket) = UdpSocket::from_std(socket) else {
        return;
    };
    let mut buffer = vec![0; LONGEST];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // What ICMP says of a client that is gone.
            continue;
        };
        let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
        let _ = socket.send_to(&answer, client).await;
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Right,
    Wrong,
    /// It is asked again.
    None,
}

/// One client's life: `tell` hears what became of each question.
pub(super) async fn live(
    number: u64,
    address: SocketAddr,
    tell: impl Fn(Answer),
) -> io::Result<()> {
    let socket = UdpSocket::bind(match address {
        SocketAddr::V4(_) => "127.0.0.1:0",
        SocketAddr::V6(_) => "[::1]:0",
    })
    .await?;
    socket.connect(address).await?;
    let mut buffer = vec![0; LONGEST];
    for question in 0_u64.. {
        let asked = format!("client {number} question {question}");
        loop {
            let answer = ask(&socket, &asked, &mut buffer).await;
            tell(answer);
            if answer != Answer::None {
                break;
            }
        }
        tokio::time::sleep(THOUGHT).await;
    }
    Ok(())
}

async fn ask(socket: &UdpSocket, question: &str, buffer: &mut [u8]) -> Answer {
    if socket.send(question.as_bytes()).await.is_err() {
        tokio::time::sleep(PATIENCE).await;
        return Answer::None;
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let received = tokio::time::timeout_at(deadline, socket.recv(buffer)).await;
        let Ok(Ok(length)) = received else {
            return Answer::None;
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        return match text.split_once(' ') {
            Some((_, rest)) if rest == question => Answer::Right,
            // A late answer to what was asked before is no answer to this.
            Some((_, rest)) if rest.starts_with("client ") && is_earlier(rest, question) => {
                continue;
            }
            _ => Answer::Wrong,
        };
    }
}

/// Whether `asked` was this client's question before `question`.
fn is_earlier(asked: &str, question: &str) -> bool {
    let parts = |text: &str| {
        let (client, number) = text.rsplit_once(' ')?;
        Some((client.to_owned(), number.parse::<u64>().ok()?))
    };
    match (parts(asked), parts(question)) {
        (Some((client, number)), Some((own, current))) => client == own && number < current,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_earlier;

    #[test]
    fn late_answers_are_told_from_another_clients() {
        assert!(is_earlier("client 3 question 7", "client 3 question 8"));
        assert!(!is_earlier("client 3 question 8", "client 3 question 8"));
        assert!(!is_earlier("client 2 question 7", "client 3 question 8"));
        assert!(!is_earlier("client 3 question x", "client 3 question 8"));
    }
}
