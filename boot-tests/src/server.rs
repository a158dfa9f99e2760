//! A server of the build machine, for guests with a network: it has the numbers from 1 on, a line
//! each, and takes them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, ensure};

/// How many numbers: some MB.
const COUNT: u32 = 600_000;

/// Starts it. It ends with this process.
///
/// # Errors
///
/// When there is no socket for it.
pub fn start() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = serve(&stream) {
                    println!("server: {error:#}");
                }
            });
        }
    });
    Ok(port)
}

/// Answers a request: sends the numbers, or says that it was sent them, and nothing else.
fn serve(mut stream: &TcpStream) -> Result<()> {
    let numbers: Vec<u8> = (1..=COUNT).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "a request has no end");
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
    let request = lines.first().context("a request is empty")?;
    let answer = if request.starts_with("post ") {
        let length =
            lines.iter().find_map(|line| line.strip_prefix("content-length:")).context("a request has no length")?;
        let mut taken = vec![0; length.trim().parse()?];
        reader.read_exact(&mut taken)?;
        if taken == numbers { b"taken".to_vec() } else { b"these are others".to_vec() }
    } else {
        numbers
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len())?;
    Ok(stream.write_all(&answer)?)
}
