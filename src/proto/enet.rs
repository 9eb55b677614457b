//! What must be known of an ENet datagram without being an ENet host.
//!
//! Every viewer has an ENet host of its own that believes it is peer 0, and a **wide** peer id that no
//! other viewer of this machine has: clients are told the wide one, so the first two bytes of a datagram
//! say whose it is. Here are the looking and the rewriting in place that this takes, and a ready-made
//! datagram for a viewer whose ENet host is gone. No connection state, no retransmission, no timers.
//!
//! A datagram (all numbers big-endian):
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 2 | bits 0..12 peer id of the receiver (0xFFF: not known yet), 12..14 session id, 14 compressed, 15 sent time present |
//! | 2 | 2 | sent time, if bit 15 is set |
//! | | | commands: u8 number and flags, u8 channel, u16 reliable sequence number, body |
//!
//! There are no checksums and no compression in this protocol; compressed datagrams are refused.
//!
//! Source: cgutman/enet include/enet/protocol.h, protocol.c; rusty_enet src/c/protocol.rs.

#[cfg(test)]
mod tests;

/// The peer id that means "not known yet"; valid ids are below.
pub const PEER_ID_NONE: u16 = 0xFFF;

const SESSION_SHIFT: u16 = 12;
const SESSION_MASK: u16 = 0x3000;
const COMPRESSED: u16 = 0x4000;
const SENT_TIME: u16 = 0x8000;
const COMMAND_HEADER_BYTES: usize = 4;
/// Commands that one datagram may hold; ENet sends 32 at most.
const COMMANDS_MAX: usize = 64;

const COMMAND_MASK: u8 = 0x0F;
const FLAG_UNSEQUENCED: u8 = 0x40;
const CONNECT: u8 = 2;
const VERIFY_CONNECT: u8 = 3;
const SEND_RELIABLE: u8 = 6;
const SEND_UNRELIABLE: u8 = 7;
const SEND_UNSEQUENCED: u8 = 9;

/// The outside of a datagram and its first command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Peer id of the receiver; `None` in the datagrams that carry CONNECT.
    pub peer: Option<u16>,
    /// 0..=3, of the receiver's incoming session.
    pub session: u8,
    pub first: Command,
}

/// A command as far as the door and a session need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Connect(Connect),
    VerifyConnect {
        /// The sender's id for its peer: what the receiver is to address datagrams with.
        peer: u16,
        /// Session ids as the receiver is to use them: of datagrams it gets, and of those it sends.
        incoming_session: u8,
        outgoing_session: u8,
    },
    /// Another command, by its number (1 acknowledge, 4 disconnect, 5 ping, 6 to 9 and 12 data).
    Other {
        number: u8,
    },
}

/// What a client says when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The client's id for this host: the peer id of every datagram to it. Below [`PEER_ID_NONE`].
    pub peer: u16,
    pub mtu: u32,
    /// 48 from current clients.
    pub channels: u32,
    /// Opaque; tells a repeated CONNECT from a new one.
    pub connect_id: u32,
    /// `X-SS-Connect-Data`, or 0.
    pub data: u32,
}

/// Looks at a datagram: its header and first command, which must be complete. `None`: no ENet datagram,
/// or a compressed one, or one without a peer id that does not connect, or a CONNECT with no valid one.
pub fn peek(datagram: &[u8]) -> Option<Peek> {
    let header = Header::parse(datagram)?;
    let first = Commands::new(datagram, header).next()?.ok()?.decode(datagram)?;
    let addressed = match first {
        Command::Connect(connect) => header.peer.is_none() && connect.peer < PEER_ID_NONE,
        _ => header.peer.is_some(),
    };
    addressed.then_some(Peek { peer: header.peer, session: header.session, first })
}

/// Whether the datagram is well-formed to its end: every command complete, nothing behind the last.
///
/// ENet hosts handle what comes before a broken command. A datagram from a sane peer is always whole.
pub fn is_whole(datagram: &[u8]) -> bool {
    Header::parse(datagram).is_some_and(|header| {
        let mut commands = Commands::new(datagram, header).peekable();
        commands.peek().is_some() && commands.all(|command| command.is_ok())
    })
}

/// Turns the receiver's wide peer id of an incoming datagram into the local one. A datagram that carries
/// CONNECT has no peer id and stays as it is. False: the datagram is not for `wide`; it is unchanged.
pub fn rewrite_incoming(datagram: &mut [u8], wide: u16, local: u16) -> bool {
    assert!(wide < PEER_ID_NONE && local < PEER_ID_NONE);
    let Some(header) = Header::parse(datagram) else { return false };
    match header.peer {
        None => true,
        Some(peer) if peer == wide => {
            let word = header.word & !PEER_ID_NONE | local;
            datagram[..2].copy_from_slice(&word.to_be_bytes());
            true
        }
        Some(_) => false,
    }
}

/// Turns the sender's local peer id into the wide one in every VERIFY_CONNECT of an outgoing datagram,
/// the only place where a host names itself. False: the datagram is malformed and is not to be sent.
pub fn rewrite_outgoing(datagram: &mut [u8], local: u16, wide: u16) -> bool {
    assert!(wide < PEER_ID_NONE && local < PEER_ID_NONE);
    let Some(header) = Header::parse(datagram) else { return false };
    let mut at = header.bytes;
    for _ in 0..=COMMANDS_MAX {
        if at == datagram.len() {
            return true;
        }
        let Some(command) = Extent::parse(datagram, at) else { return false };
        let field = at + COMMAND_HEADER_BYTES..at + COMMAND_HEADER_BYTES + 2;
        if command.number == VERIFY_CONNECT {
            let Some(peer) = datagram.get_mut(field) else { return false };
            if *peer == local.to_be_bytes() {
                peer.copy_from_slice(&wide.to_be_bytes());
            }
        }
        at = command.end;
    }
    false
}

/// The packets that a datagram holds whole, in order; fragments and what follows a broken command are
/// left out. A session looks in them for a message that proves whose datagram it is.
pub fn packets(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let commands = Header::parse(datagram).map(|header| Commands::new(datagram, header));
    let whole = commands.into_iter().flatten().map_while(Result::ok);
    whole.filter_map(|command| {
        let data_at = match command.number {
            SEND_RELIABLE => 6,
            SEND_UNRELIABLE | SEND_UNSEQUENCED => 8,
            _ => return None,
        };
        datagram.get(command.start + data_at..command.end)
    })
}

/// A datagram with one unsequenced packet on channel 0, complete in itself: it needs no ENet host to
/// send it, and none has to remember it. `peer` and `session` are what the receiver expects in datagrams
/// to it ([`Peek`] of any datagram that was sent to it).
///
/// A receiver takes each group once and forgets groups far behind the newest. A host that sends
/// everything else reliably has used none: groups from 1 on are free, and a repetition of the same
/// datagram is taken once. The payload must leave room in the MTU (900 with current clients).
pub fn unsequenced(peer: u16, session: u8, group: u16, payload: &[u8]) -> Vec<u8> {
    assert!(peer < PEER_ID_NONE && session < 4);
    let length = u16::try_from(payload.len()).expect("control messages are some hundred bytes");
    let word = peer | u16::from(session) << SESSION_SHIFT;
    let mut datagram = word.to_be_bytes().to_vec();
    datagram.extend_from_slice(&[SEND_UNSEQUENCED | FLAG_UNSEQUENCED, 0, 0, 0]);
    datagram.extend_from_slice(&group.to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// The datagram's first two or four bytes.
#[derive(Clone, Copy)]
struct Header {
    word: u16,
    peer: Option<u16>,
    session: u8,
    /// 2 or 4.
    bytes: usize,
}

impl Header {
    fn parse(datagram: &[u8]) -> Option<Self> {
        let word = u16::from_be_bytes(*datagram.first_chunk()?);
        let bytes = if word & SENT_TIME == 0 { 2 } else { 4 };
        if word & COMPRESSED != 0 || datagram.len() < bytes {
            return None;
        }
        let peer = Some(word & PEER_ID_NONE).filter(|peer| *peer != PEER_ID_NONE);
        let session = u8::try_from((word & SESSION_MASK) >> SESSION_SHIFT).ok()?;
        Some(Self { word, peer, session, bytes })
    }
}

/// Where a command lies.
#[derive(Clone, Copy)]
struct Extent {
    number: u8,
    start: usize,
    end: usize,
}

impl Extent {
    /// The command at `start`. `None`: unknown, or not complete.
    fn parse(datagram: &[u8], start: usize) -> Option<Self> {
        let rest = datagram.get(start..)?;
        let number = rest.first()? & COMMAND_MASK;
        // Fixed size, and where in it the length of the data behind it stands.
        let (fixed, length_at) = match number {
            1 | 4 => (8, None),
            CONNECT => (48, None),
            VERIFY_CONNECT => (44, None),
            5 => (4, None),
            SEND_RELIABLE => (6, Some(4)),
            SEND_UNRELIABLE | SEND_UNSEQUENCED => (8, Some(6)),
            8 | 12 => (24, Some(6)),
            10 => (12, None),
            11 => (16, None),
            _ => return None,
        };
        let data = match length_at {
            Some(at) => usize::from(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?)),
            None => 0,
        };
        let end = start + fixed + data;
        (end <= datagram.len()).then_some(Self { number, start, end })
    }

    fn decode(self, datagram: &[u8]) -> Option<Command> {
        let bytes = datagram.get(self.start..self.end)?;
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(match self.number {
            CONNECT => Command::Connect(Connect {
                peer: word(4)?,
                mtu: long(8)?,
                channels: long(16)?,
                connect_id: long(40)?,
                data: long(44)?,
            }),
            VERIFY_CONNECT => Command::VerifyConnect {
                peer: word(4)?,
                incoming_session: *bytes.get(6)?,
                outgoing_session: *bytes.get(7)?,
            },
            number => Command::Other { number },
        })
    }
}

/// A command that is not complete or has no known number.
struct Broken;

/// The commands of a datagram; ends after a broken one.
struct Commands<'a> {
    datagram: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Commands<'a> {
    fn new(datagram: &'a [u8], header: Header) -> Self {
        Self { datagram, at: header.bytes, left: COMMANDS_MAX }
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Extent, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.datagram.len() {
            return None;
        }
        let command = Extent::parse(self.datagram, self.at).filter(|_| self.left > 0);
        self.left = self.left.saturating_sub(1);
        self.at = command.map_or(self.datagram.len(), |command| command.end);
        Some(command.ok_or(Broken))
    }
}
