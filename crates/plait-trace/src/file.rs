//! The file that holds records: a row of chunks, append-only, good up to the last whole chunk whatever happened to its writer.
//!
//! | bytes of a chunk's head | what (little endian) |
//! |---|---|
//! | 0..4 | `PLTR` |
//! | 4..6 | version of the format |
//! | 6..8 | 0 |
//! | 8..12 | process |
//! | 12..16 | number of the chunk among those of its writer, from 0 |
//! | 16..20 | bytes that follow the head |
//! | 20..24 | CRC-32 of those |
//! | 24..28 | CRC-32 of the head so far |
//!
//! Then three numbers, how many texts, functions and frames were defined before, and the records. There is no head of the file, so
//! files are put together by appending them. A chunk that is damaged is passed over, and definitions that were in it are made up
//! for with such that say so: the numbers of those that follow stay right.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crate::record::{Pid, Record, Text};
use crate::wire::{BEGIN, Decoder, Encoder, Memory};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"PLTR";
const HEAD: usize = 28;
/// A chunk is closed when it has grown to this.
const CHUNK: usize = 64 << 10;
/// A longer one is none of ours: one that is not full yet gets one record more.
const LONGEST: usize = 2 << 20;
/// More definitions than these are in no process; and so many at most are made up for in a file, whatever it claims.
const MOST: Defined = Defined {
    texts: 1 << 17,
    functions: 1 << 18,
    frames: 1 << 18,
};
const MOST_LOST: u64 = 1 << 20;
/// Bodies that turn out to be damaged are read so many bytes long, and as often as this the length of what was passed so far; then they are
/// passed over as a whole, and what is whole within them is lost.
const VAIN: u64 = 16 << 20;
const VAIN_TIMES: u64 = 8;
/// What stands for a text that was lost.
const LOST: &str = "(lost)";

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 0 {
                value >> 1
            } else {
                value >> 1 ^ 0xedb8_8320
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

fn crc(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, &byte| crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)])
}

/// How many of each were defined in a process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Defined {
    texts: u64,
    functions: u64,
    frames: u64,
}

impl Defined {
    fn sum(&self) -> u64 {
        self.texts + self.functions + self.frames
    }

    /// What these have that the others have not.
    fn without(&self, others: &Defined) -> Defined {
        Defined {
            texts: self.texts.saturating_sub(others.texts),
            functions: self.functions.saturating_sub(others.functions),
            frames: self.frames.saturating_sub(others.frames),
        }
    }

    fn count(&mut self, record: &Record) {
        match record {
            Record::Begin { .. } => *self = Defined::default(),
            Record::Define { .. } => self.texts += 1,
            Record::Function { .. } => self.functions += 1,
            Record::Frame { .. } => self.frames += 1,
            _ => {}
        }
    }
}

/// Writes the records of one process.
///
/// What was written is in the file after [`Writer::flush`], and at the latest when 64 KiB of it have come together.
pub struct Writer<W: Write> {
    out: W,
    pid: Pid,
    sequence: u32,
    defined: Defined,
    /// As it was when the chunk began.
    before: Defined,
    chunk: Encoder,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// A writer for a process that has none yet.
    pub fn new(out: W, pid: Pid) -> Writer<W> {
        Writer::begin(out, pid, false)
    }

    /// One whose first records hold, in sums, what was written of the process so far, up to a number of a chunk.
    pub(crate) fn rolled(out: W, pid: Pid, sequence: u32) -> Writer<W> {
        Writer {
            sequence,
            ..Writer::begin(out, pid, true)
        }
    }

    fn begin(out: W, pid: Pid, rolled: bool) -> Writer<W> {
        let mut chunk = Encoder::default();
        chunk.put(&Record::Begin { rolled });
        let none = Defined::default();
        Writer {
            out,
            pid,
            sequence: 0,
            defined: none,
            before: none,
            chunk,
            written: 0,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// A full chunk could not be written: its records are lost, and a reader will say so.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.defined.count(record);
        self.chunk.put(record);
        if self.chunk.bytes.len() >= CHUNK {
            self.close()
        } else {
            Ok(())
        }
    }

    /// Hands over everything to the system.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.chunk.bytes.is_empty() {
            self.close()?;
        }
        self.out.flush()
    }

    /// How many bytes have been handed over, and wait to be.
    pub fn size(&self) -> u64 {
        self.written + self.chunk.bytes.len() as u64
    }

    /// Goes on in another file, and gives back the one so far: numbers go on.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn move_to(&mut self, out: W) -> io::Result<W> {
        let flushed = self.flush();
        let old = std::mem::replace(&mut self.out, out);
        self.written = 0;
        flushed.map(|()| old)
    }

    fn close(&mut self) -> io::Result<()> {
        let mut counts = Encoder::default();
        for count in [self.before.texts, self.before.functions, self.before.frames] {
            counts.number(count);
        }
        let payload = [counts.bytes, std::mem::take(&mut self.chunk.bytes)].concat();
        let mut chunk = Vec::with_capacity(HEAD + payload.len());
        chunk.extend(MAGIC);
        chunk.extend(VERSION.to_le_bytes());
        chunk.extend([0, 0]);
        for word in [self.pid, self.sequence, payload.len() as u32, crc(&payload)] {
            chunk.extend(word.to_le_bytes());
        }
        chunk.extend(crc(&chunk).to_le_bytes());
        chunk.extend(payload);
        self.chunk.clear();
        self.before = self.defined;
        self.sequence = self.sequence.wrapping_add(1);
        self.written += chunk.len() as u64;
        self.out.write_all(&chunk)
    }
}

/// Why a file cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system says so.
    Io(io::Error),
    /// There is not one chunk in it.
    NotATrace,
    /// Another version of plait wrote it.
    Version(u16),
}

impl std::fmt::Display for Error {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Io(error) => error.fmt(to),
            Error::NotATrace => to.write_str("not a trace of plait"),
            Error::Version(version) => write!(
                to,
                "a trace of format {version}, and this version of plait reads format {VERSION}: read it with the version that wrote it"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What was missing in the files that were read. None of it is an error: programs die while they write.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Missing {
    /// Bytes of a last chunk that is not whole.
    pub tail: u64,
    /// Bytes in between that were no chunk.
    pub damaged: u64,
    /// Chunks that are not there, as the numbers of the others tell.
    pub chunks: u64,
}

/// What a reader has to know of the files that it read before, where those go on in another.
#[derive(Default)]
pub struct Sources(HashMap<Pid, Source>);

impl Sources {
    /// The number of the last chunk of a process.
    pub(crate) fn last(&self, pid: Pid) -> u32 {
        self.0.get(&pid).map_or(0, |source| source.next.saturating_sub(1))
    }
}

/// What is known of a process whose chunks come.
#[derive(Default)]
struct Source {
    next: u32,
    defined: Defined,
}

/// Reads records back: each with its process.
///
/// ```
/// use plait_trace::file::{Reader, Writer};
/// use plait_trace::record::Record;
///
/// let mut file = Vec::new();
/// let mut writer = Writer::new(&mut file, 42);
/// writer.write(&Record::ThreadEnd { tid: 43, at: 1_000 })?;
/// writer.flush()?;
///
/// let records: Vec<_> = Reader::new(&file[..]).collect::<Result<_, _>>()?;
/// assert_eq!(records[1], (42, Record::ThreadEnd { tid: 43, at: 1_000 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader<R: Read> {
    input: R,
    buffer: Vec<u8>,
    /// Where in the buffer what is to be read begins.
    place: usize,
    ended: bool,
    chunks: u64,
    sources: Sources,
    missing: Missing,
    /// The chunk that is being read: its process, where it ends, and the decoder's memory.
    open: Option<(Pid, usize, Memory)>,
    /// Definitions to make up for: how many of each are still missing.
    lost: Defined,
    /// How many were made up for.
    made_up: u64,
    /// Bytes that were passed, and those that were read in vain.
    passed: u64,
    vain: u64,
}

impl<R: Read> Reader<R> {
    /// A reader of one file, or of several put together.
    pub fn new(input: R) -> Reader<R> {
        Reader::after(Sources::default(), input)
    }

    /// A reader of a file that goes on where others, read before, ended.
    pub fn after(sources: Sources, input: R) -> Reader<R> {
        Reader {
            input,
            buffer: Vec::new(),
            place: 0,
            ended: false,
            chunks: 0,
            sources,
            missing: Missing::default(),
            open: None,
            lost: Defined::default(),
            made_up: 0,
            passed: 0,
            vain: 0,
        }
    }

    /// What a reader of the next file has to know.
    pub fn into_sources(self) -> Sources {
        self.sources
    }

    /// What was missing so far.
    pub fn missing(&self) -> Missing {
        self.missing
    }

    /// Sees to it that the buffer has `length` bytes from its place on, if there are as many.
    fn fill(&mut self, length: usize) -> io::Result<bool> {
        if self.buffer.len() - self.place >= length {
            return Ok(true);
        }
        if self.ended {
            return Ok(false);
        }
        self.passed += self.place as u64;
        self.buffer.drain(..self.place);
        self.place = 0;
        while self.buffer.len() < length && !self.ended {
            let more = (length - self.buffer.len()).clamp(CHUNK * 4, 1 << 20) as u64;
            let got = self.input.by_ref().take(more).read_to_end(&mut self.buffer)?;
            self.ended = got == 0;
        }
        Ok(self.buffer.len() - self.place >= length)
    }

    fn word(&self, offset: usize) -> u32 {
        let at = self.place + offset;
        self.buffer[at..at + 4]
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte))
    }

    /// Opens the next whole chunk; `false` at the end.
    fn next_chunk(&mut self) -> Result<bool, Error> {
        loop {
            if !self.fill(HEAD).map_err(Error::Io)? {
                let rest = (self.buffer.len() - self.place) as u64;
                self.place = self.buffer.len();
                let tail = &self.buffer[self.buffer.len() - rest as usize..];
                let begun = tail[..tail.len().min(4)] == MAGIC[..tail.len().min(4)];
                if self.chunks == 0 && !(begun && self.missing.damaged == 0) {
                    return Err(Error::NotATrace);
                }
                self.missing.tail += rest;
                return Ok(false);
            }
            let head = &self.buffer[self.place..self.place + HEAD];
            if head[..4] != MAGIC || crc(&head[..HEAD - 4]) != self.word(HEAD - 4) {
                self.pass_over();
                continue;
            }
            let version = u16::from_le_bytes([head[4], head[5]]);
            if version != VERSION {
                return Err(Error::Version(version));
            }
            let length = self.word(16) as usize;
            if length > LONGEST {
                self.pass_over();
                continue;
            }
            if !self.fill(HEAD + length).map_err(Error::Io)? {
                // Its head was good, so its writer died over it, and another file may follow within what looks like its body.
                if !self.another_follows() {
                    self.chunks += 1;
                    self.missing.tail += (self.buffer.len() - self.place) as u64;
                    self.place = self.buffer.len();
                    return Ok(false);
                }
                self.pass_over();
                continue;
            }
            let body = &self.buffer[self.place + HEAD..self.place + HEAD + length];
            if crc(body) != self.word(20) {
                self.vain += length as u64;
                if self.vain > VAIN + VAIN_TIMES * (self.passed + self.place as u64) {
                    self.missing.damaged += (HEAD + length) as u64;
                    self.place += HEAD + length;
                } else {
                    self.pass_over();
                }
                continue;
            }
            if self.enter(length) {
                return Ok(true);
            }
        }
    }

    fn another_follows(&self) -> bool {
        self.buffer[self.place + 1..].windows(4).any(|window| window == MAGIC)
    }

    /// Goes on to the next place that may be the beginning of a chunk.
    fn pass_over(&mut self) {
        let rest = &self.buffer[self.place + 1..];
        // Up to three bytes at the end may be the beginning of one that has not been read yet.
        let step = rest
            .windows(4)
            .position(|window| window == MAGIC)
            .unwrap_or(rest.len().saturating_sub(3))
            + 1;
        self.missing.damaged += step as u64;
        self.place += step;
    }

    /// Begins to read a chunk that is whole and undamaged.
    fn enter(&mut self, length: usize) -> bool {
        let (pid, sequence) = (self.word(8), self.word(12));
        let end = self.place + HEAD + length;
        let mut decoder = Decoder::new(&self.buffer[self.place + HEAD..end], Memory::default());
        let before = (|| {
            Some(Defined {
                texts: decoder.number()?,
                functions: decoder.number()?,
                frames: decoder.number()?,
            })
        })();
        let (left, begins) = (decoder.bytes.len(), decoder.bytes.first() == Some(&BEGIN));
        let known = match self.sources.0.get(&pid) {
            Some(source) if !begins => source.defined,
            _ => Defined::default(),
        };
        let lost = before
            .filter(|before| before.without(&MOST) == Defined::default())
            .map(|before| before.without(&known))
            .filter(|lost| self.made_up + lost.sum() <= MOST_LOST);
        let Some(lost) = lost else {
            self.missing.damaged += (HEAD + length) as u64;
            self.place = end;
            return false;
        };
        self.made_up += lost.sum();
        let source = self.sources.0.entry(pid).or_default();
        if begins {
            *source = Source {
                next: sequence,
                ..Source::default()
            };
        }
        self.missing.chunks += u64::from(sequence.saturating_sub(source.next));
        source.next = sequence.wrapping_add(1);
        self.lost = lost;
        self.chunks += 1;
        self.place = end - left;
        self.open = Some((pid, end, Memory::default()));
        true
    }

    /// A definition in the place of one that was lost.
    fn stand_in(&mut self) -> Option<Record> {
        if self.lost.texts > 0 {
            self.lost.texts -= 1;
            Some(Record::Define { text: LOST.into() })
        } else if self.lost.functions > 0 {
            self.lost.functions -= 1;
            Some(Record::Function {
                name: Text(0),
                file: Text(0),
                line: 0,
            })
        } else if self.lost.frames > 0 {
            self.lost.frames -= 1;
            Some(Record::Frame {
                caller: 0,
                function: u32::MAX,
                line: 0,
            })
        } else {
            None
        }
    }

    fn advance(&mut self) -> Result<Option<(Pid, Record)>, Error> {
        loop {
            let Some((pid, end, memory)) = self.open.take() else {
                if self.next_chunk()? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(record) = self.stand_in() {
                self.open = Some((pid, end, memory));
                return Ok(Some(self.told(pid, record)));
            }
            if self.place == end {
                continue;
            }
            let mut decoder = Decoder::new(&self.buffer[self.place..end], memory);
            let Some(record) = decoder.take() else {
                self.missing.damaged += (end - self.place) as u64;
                self.place = end;
                continue;
            };
            self.place = end - decoder.bytes.len();
            self.open = Some((pid, end, decoder.memory()));
            return Ok(Some(self.told(pid, record)));
        }
    }

    fn told(&mut self, pid: Pid, record: Record) -> (Pid, Record) {
        if matches!(
            record,
            Record::Begin { .. } | Record::Define { .. } | Record::Function { .. } | Record::Frame { .. }
        ) {
            self.sources.0.entry(pid).or_default().defined.count(&record);
        }
        (pid, record)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<(Pid, Record), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
