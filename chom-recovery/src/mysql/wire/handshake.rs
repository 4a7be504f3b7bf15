//! The begin of a connection: who the server is, and the proof of who asks.

use std::{collections::HashMap, time::Duration};

use mysql_common::{
    constants::CapabilityFlags,
    crypto,
    io::ParseBuf,
    packets::{AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse},
    proto::MySerialize,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{Login, session::PROGRAM},
};

use super::{ERR, packets::Packets, server_error, unexpected};

/// What follows the byte 1 in an answer of `caching_sha2_password`: the server knows the password's hash, or does not.
const KNOWN: u8 = 3;
const UNKNOWN: u8 = 4;
/// Asks for the key that passwords are encrypted with.
const ASK_KEY: u8 = 2;
/// Largest packet that is taken, in bytes: the greatest `max_allowed_packet` of a server.
const LARGEST: u32 = 1 << 30;

/// Connects and logs in; returns the connection's id as well.
pub(super) async fn connect(login: &Login) -> Result<(Packets, u32)> {
    let stream = TcpStream::connect((login.host.as_str(), login.port)).await.map_err(Error::from)?;
    stream.set_nodelay(true).map_err(Error::from)?;
    // A server that vanished is noticed, however long it may think about a statement.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(Error::from)?;
    let mut packets = Packets::new(stream);
    let greeting = packets.next().await?;
    if greeting.first() == Some(&ERR) {
        return Err(server_error(&greeting));
    }
    let greeting: HandshakePacket<'_> = ParseBuf(&greeting).parse(()).map_err(|_| unexpected("no greeting"))?;
    let mut plugin = greeting.auth_plugin().unwrap_or(AuthPlugin::MysqlNativePassword).into_owned();
    if matches!(plugin, AuthPlugin::MysqlOldPassword | AuthPlugin::MysqlClearPassword | AuthPlugin::Other(_)) {
        // What the server likes best, not what the account has: it says so if that differs.
        plugin = AuthPlugin::MysqlNativePassword;
    }
    let mut nonce = greeting.nonce();
    let password = login.password.expose();
    let capabilities = CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_LONG_FLAG
        | CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_PLUGIN_AUTH
        | CapabilityFlags::CLIENT_CONNECT_ATTRS;
    let mut proof = Vec::new();
    if let Some(data) = plugin.gen_data(Some(password), &nonce) {
        data.serialize(&mut proof);
    }
    let attributes = HashMap::from([("program_name".to_owned(), PROGRAM.to_owned())]);
    let response = HandshakeResponse::new(
        Some(proof),
        // Only tells which character set is known; both families know it since before they were two.
        (5, 7, 0),
        Some(login.user.as_bytes().to_vec()),
        None::<Vec<u8>>,
        Some(plugin.borrow()),
        capabilities & greeting.capabilities(),
        Some(attributes),
        LARGEST,
    );
    let mut bytes = Vec::new();
    response.serialize(&mut bytes);
    packets.send(&bytes).await?;
    let id = greeting.connection_id();
    authenticate(&mut packets, &mut plugin, &mut nonce, password).await?;
    Ok((packets, id))
}

/// Goes on until the server is content.
async fn authenticate(
    packets: &mut Packets,
    plugin: &mut AuthPlugin<'static>,
    nonce: &mut Vec<u8>,
    password: &str,
) -> Result<()> {
    let mut has_switched = false;
    loop {
        let packet = packets.next().await?;
        match (packet.first(), &*plugin) {
            (Some(0), _) => return Ok(()),
            (Some(&ERR), _) => return Err(server_error(&packet)),
            (Some(0xfe), _) if !has_switched && packet.len() > 1 => {
                has_switched = true;
                let switch: AuthSwitchRequest<'_> =
                    ParseBuf(&packet).parse(()).map_err(|_| unexpected("no way to log in"))?;
                *plugin = supported(switch.auth_plugin().into_owned())?;
                *nonce = switch.plugin_data().to_vec();
                let mut proof = Vec::new();
                // This one first has to be told the salt.
                let asks_salt = matches!(plugin, AuthPlugin::MariadbParsec { .. });
                if !asks_salt && let Some(data) = plugin.gen_data(Some(password), nonce) {
                    data.serialize(&mut proof);
                }
                packets.send(&proof).await?;
            }
            (Some(1), AuthPlugin::CachingSha2Password) => match packet.get(1) {
                Some(&KNOWN) => {}
                Some(&UNKNOWN) => send_encrypted(packets, nonce, password).await?,
                _ => return Err(unexpected("an unknown step of a login")),
            },
            (Some(_), AuthPlugin::MariadbParsec { .. }) => {
                // Early versions leave the first byte out.
                let salt = packet.strip_prefix(&[1]).unwrap_or(&packet);
                plugin.read_add_data(salt).ok_or_else(|| unexpected("no salt"))?;
                let mut proof = Vec::new();
                if let Some(data) = plugin.gen_data(Some(password), nonce) {
                    data.serialize(&mut proof);
                }
                packets.send(&proof).await?;
            }
            _ => return Err(unexpected("an unknown step of a login")),
        }
    }
}

/// Refuses ways to log in that give the password away, and those that are not known.
fn supported(plugin: AuthPlugin<'static>) -> Result<AuthPlugin<'static>> {
    match plugin {
        AuthPlugin::MysqlOldPassword | AuthPlugin::MysqlClearPassword | AuthPlugin::Other(_) => {
            let name = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
            Err(Error::new(
                ErrorKind::Authentication,
                format!("the account logs in with `{name}`, which is not supported"),
            )
            .hint("use an account with caching_sha2_password, mysql_native_password, ed25519 or parsec"))
        }
        other => Ok(other),
    }
}

/// The server has no hash of the password at hand: it gets the password, encrypted with its public key.
async fn send_encrypted(packets: &mut Packets, nonce: &[u8], password: &str) -> Result<()> {
    packets.send(&[ASK_KEY]).await?;
    let answer = packets.next().await?;
    let key = match answer.split_first() {
        Some((1, key)) if key.starts_with(b"-----BEGIN PUBLIC KEY-----") => key,
        Some((&ERR, _)) => return Err(server_error(&answer)),
        _ => return Err(unexpected("no public key")),
    };
    let mut text = zeroize::Zeroizing::new([password.as_bytes(), &[0]].concat());
    if nonce.is_empty() {
        return Err(unexpected("an empty challenge"));
    }
    for (byte, mask) in text.iter_mut().zip(nonce.iter().cycle()) {
        *byte ^= mask;
    }
    packets.send(&crypto::encrypt(&text, key)).await
}
