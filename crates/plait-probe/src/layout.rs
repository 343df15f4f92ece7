//! Where things lie in an interpreter, by version: data only.
//!
//! 3.11 and 3.12: the offsets of release builds on 64 bits, from their headers. From 3.13 on `_PyRuntime` begins with a table of offsets
//! (`_Py_DebugOffsets`), whose form belongs to the minor version. Builds that were changed may differ: so whoever uses these compares what
//! he finds with something he knows, see [`crate::stack`].

use std::ops::Range;

/// The first bytes of a table of offsets.
pub(crate) const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Bytes of `_PyRuntime` that hold every entry of the table that is used.
pub(crate) const TABLE: usize = 8 * 96;

/// Where the GIL's structure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GilPlace {
    /// So many bytes into `_PyRuntime`.
    InRuntime(usize),
    /// Where the word so many bytes into the interpreter's state points.
    ByInterpreter(usize),
}

/// Where the innermost frame of a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Innermost {
    /// The word at this offset of the thread's state.
    InThread(usize),
    /// `cframe` at `pointer` of the thread's state points at a structure that has it at `offset`.
    ByCFrame { pointer: usize, offset: usize },
}

/// Offsets in `_PyInterpreterFrame`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameAt {
    /// Bytes up to the local variables.
    pub(crate) size: usize,
    pub(crate) previous: usize,
    pub(crate) executable: usize,
    pub(crate) instruction: usize,
    pub(crate) owner: usize,
    /// Owners that there are.
    pub(crate) owners: u8,
    /// Where a thread has a copy of the code of its own: the number of the copy.
    pub(crate) copy: Option<usize>,
}

/// Offsets in a code object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodeAt {
    pub(crate) file: usize,
    pub(crate) name: usize,
    pub(crate) lines: usize,
    pub(crate) first_line: usize,
    pub(crate) instructions: usize,
    pub(crate) size: SizeAt,
    /// The copies of its instructions, one for each thread.
    pub(crate) copies: Option<usize>,
    /// What in it tells it from another code object that came to lie at the same place.
    pub(crate) identity: Identity,
}

/// Where a code object says how large its frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SizeAt {
    /// In words, all of it.
    Whole(usize),
    /// In words, two numbers, and so many bytes besides.
    Sum(usize, usize, usize),
}

/// The bytes of a code object that never change in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Of these, the ones that do change.
    pub(crate) but: (usize, usize),
    /// Whether a number that is given once is among them. Else the texts of its name and file are looked at too.
    pub(crate) numbered: bool,
}

impl Identity {
    pub(crate) fn range(&self) -> Range<usize> {
        self.from..self.to
    }
}

/// Offsets in texts and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TextAt {
    pub(crate) length: usize,
    pub(crate) state: usize,
    /// Bits of the state below the kind of the characters.
    pub(crate) kind_shift: u32,
    /// Size of the head of a text that is ASCII, and of one that is not.
    pub(crate) ascii: usize,
    pub(crate) compact: usize,
    pub(crate) bytes_length: usize,
    pub(crate) bytes: usize,
}

/// Where things lie in one interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub(crate) minor: u8,
    pub(crate) free_threaded: bool,
    pub(crate) interpreters: usize,
    pub(crate) interpreter_next: usize,
    pub(crate) threads: usize,
    pub(crate) gil: GilPlace,
    pub(crate) thread_next: usize,
    pub(crate) thread_interpreter: usize,
    pub(crate) thread_ident: usize,
    pub(crate) thread_native: usize,
    /// Whether it stands still while the world is stopped is said by a number there, where that is known.
    pub(crate) thread_state: Option<usize>,
    /// The chunk that the newest frames lie in; the word after it is where they end.
    pub(crate) thread_chunk: usize,
    pub(crate) innermost: Innermost,
    pub(crate) frame: FrameAt,
    pub(crate) code: CodeAt,
    pub(crate) text: TextAt,
    pub(crate) object_type: usize,
    pub(crate) type_name: usize,
}

impl Layout {
    /// The 11 of 3.11.
    #[must_use]
    pub fn minor(&self) -> u8 {
        self.minor
    }

    /// Whether it is a build that can do without a GIL.
    #[must_use]
    pub fn free_threaded(&self) -> bool {
        self.free_threaded
    }

    /// Bytes of a thread's state that hold all that is used of it.
    pub(crate) fn thread_size(&self) -> usize {
        let frame = match self.innermost {
            Innermost::InThread(at) | Innermost::ByCFrame { pointer: at, .. } => at,
        };
        let used = [
            frame,
            self.thread_next,
            self.thread_interpreter,
            self.thread_ident,
            self.thread_native,
            self.thread_state.unwrap_or(0),
            self.thread_chunk,
        ];
        used.into_iter().max().unwrap_or(0) + 16
    }

    /// By the version alone: those without a table.
    pub(crate) fn of_version(minor: u8) -> Option<Layout> {
        match minor {
            11 => Some(PYTHON_3_11),
            12 => Some(PYTHON_3_12),
            _ => None,
        }
    }

    /// From the first bytes of `_PyRuntime`, for versions that have the table. None if it is not one, of a version that is known.
    pub(crate) fn of_table(bytes: &[u8]) -> Option<Layout> {
        let table = Table(bytes);
        if table.word(0)? != COOKIE {
            return None;
        }
        match table.word(1)? >> 16 {
            0x030d => from_table(&table, 13, &FORM_3_13),
            0x030e => from_table(&table, 14, &FORM_3_14),
            0x030f => from_table(&table, 15, &FORM_3_15),
            _ => None,
        }
    }
}

const PYTHON_3_12: Layout = Layout {
    minor: 12,
    free_threaded: false,
    interpreters: 40,
    interpreter_next: 0,
    threads: 72,
    gil: GilPlace::ByInterpreter(384),
    thread_next: 8,
    thread_interpreter: 16,
    thread_ident: 136,
    thread_native: 144,
    thread_state: None,
    thread_chunk: 232,
    innermost: Innermost::ByCFrame { pointer: 56, offset: 0 },
    frame: FrameAt {
        size: 72,
        previous: 8,
        executable: 0,
        instruction: 56,
        owner: 70,
        owners: 4,
        copy: None,
    },
    code: CodeAt {
        file: 112,
        name: 128,
        lines: 136,
        first_line: 68,
        instructions: 192,
        size: SizeAt::Whole(76),
        copies: None,
        identity: Identity {
            from: 8,
            to: 144,
            but: (0, 0),
            numbered: true,
        },
    },
    text: TextAt {
        length: 16,
        state: 32,
        kind_shift: 2,
        ascii: 40,
        compact: 56,
        bytes_length: 16,
        bytes: 32,
    },
    object_type: 8,
    type_name: 24,
};

const PYTHON_3_11: Layout = Layout {
    minor: 11,
    threads: 16,
    gil: GilPlace::InRuntime(360),
    thread_ident: 152,
    thread_native: 160,
    thread_chunk: 296,
    innermost: Innermost::ByCFrame { pointer: 56, offset: 8 },
    frame: FrameAt {
        previous: 48,
        executable: 32,
        owner: 69,
        owners: 3,
        ..PYTHON_3_12.frame
    },
    code: CodeAt {
        first_line: 72,
        instructions: 184,
        size: SizeAt::Sum(68, 76, 72),
        // `co_warmup` counts, beside the flags.
        identity: Identity {
            but: (48, 56),
            numbered: false,
            ..PYTHON_3_12.code.identity
        },
        ..PYTHON_3_12.code
    },
    text: TextAt {
        ascii: 48,
        compact: 72,
        ..PYTHON_3_12.text
    },
    ..PYTHON_3_12
};

/// Which word of a table is what.
struct Form {
    interpreters: usize,
    interpreter_next: usize,
    threads: usize,
    gil: usize,
    thread_next: usize,
    thread_interpreter: usize,
    thread_frame: usize,
    thread_ident: usize,
    thread_native: usize,
    thread_chunk: usize,
    /// `thread_state.status`; the thread's own state lies so far behind it.
    thread_status: Option<(usize, usize)>,
    /// `interpreter_frame.previous`; executable, instr_ptr, localsplus and owner follow.
    frame: usize,
    owners: u8,
    frame_copy: Option<usize>,
    /// `code_object.filename`; name, qualname, linetable and firstlineno follow.
    code: usize,
    instructions: usize,
    copies: Option<usize>,
    object_type: usize,
    type_name: usize,
    /// `bytes_object.ob_size`; ob_sval follows.
    bytes: usize,
    /// `unicode_object.size`; state, length and asciiobject_size follow.
    text: usize,
}

const FORM_3_13: Form = Form {
    interpreters: 5,
    interpreter_next: 8,
    threads: 9,
    gil: 14,
    thread_next: 21,
    thread_interpreter: 22,
    thread_frame: 23,
    thread_ident: 24,
    thread_native: 25,
    thread_chunk: 26,
    thread_status: None,
    frame: 29,
    owners: 4,
    frame_copy: None,
    code: 35,
    instructions: 43,
    copies: None,
    object_type: 45,
    type_name: 47,
    bytes: 65,
    text: 67,
};

const FORM_3_14: Form = Form {
    interpreters: 5,
    interpreter_next: 8,
    threads: 9,
    gil: 15,
    thread_next: 24,
    thread_interpreter: 25,
    thread_frame: 26,
    thread_ident: 27,
    thread_native: 28,
    thread_chunk: 29,
    thread_status: Some((30, 12)),
    frame: 32,
    owners: 5,
    frame_copy: Some(38),
    code: 40,
    instructions: 48,
    copies: Some(49),
    object_type: 51,
    type_name: 53,
    bytes: 75,
    text: 77,
};

const FORM_3_15: Form = Form {
    thread_ident: 30,
    thread_native: 31,
    thread_chunk: 32,
    thread_status: None,
    frame: 40,
    frame_copy: Some(46),
    code: 48,
    instructions: 56,
    copies: Some(57),
    object_type: 59,
    type_name: 61,
    bytes: 87,
    text: 89,
    ..FORM_3_14
};

struct Table<'a>(&'a [u8]);

impl Table<'_> {
    fn word(&self, index: usize) -> Option<u64> {
        let bytes = self.0.get(index * 8..index * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// An offset within a structure: none is larger than this.
    fn offset(&self, index: usize) -> Option<usize> {
        usize::try_from(self.word(index)?)
            .ok()
            .filter(|&offset| offset < 1 << 24)
    }
}

fn from_table(table: &Table<'_>, minor: u8, form: &Form) -> Option<Layout> {
    let at = |index| table.offset(index);
    let free_threaded = table.word(2)? != 0;
    let per_thread = |index: Option<usize>| index.filter(|_| free_threaded).map(at);
    let object_type = at(form.object_type)?;
    let lines = at(form.code + 3)?;
    Some(Layout {
        minor,
        free_threaded,
        interpreters: at(form.interpreters)?,
        interpreter_next: at(form.interpreter_next)?,
        threads: at(form.threads)?,
        gil: GilPlace::ByInterpreter(at(form.gil)?),
        thread_next: at(form.thread_next)?,
        thread_interpreter: at(form.thread_interpreter)?,
        thread_ident: at(form.thread_ident)?,
        thread_native: at(form.thread_native)?,
        thread_state: match form.thread_status {
            Some((status, behind)) if free_threaded => Some(at(status)? + behind),
            _ => None,
        },
        thread_chunk: at(form.thread_chunk)?,
        innermost: Innermost::InThread(at(form.thread_frame)?),
        frame: FrameAt {
            size: at(form.frame + 3)?,
            previous: at(form.frame)?,
            executable: at(form.frame + 1)?,
            instruction: at(form.frame + 2)?,
            owner: at(form.frame + 4)?,
            owners: form.owners,
            copy: per_thread(form.frame_copy).transpose_some()?,
        },
        code: CodeAt {
            file: at(form.code)?,
            name: at(form.code + 2)?,
            lines,
            first_line: at(form.code + 4)?,
            instructions: at(form.instructions)?,
            // The number of local variables stands between.
            size: SizeAt::Whole(at(form.code + 4)? + 8),
            copies: per_thread(form.copies).transpose_some()?,
            identity: Identity {
                from: object_type,
                to: lines + 8,
                but: (0, 0),
                numbered: true,
            },
        },
        text: TextAt {
            length: at(form.text + 2)?,
            state: at(form.text + 1)?,
            // A byte of its own from 3.14 on, where threads change it side by side.
            kind_shift: if free_threaded && minor >= 14 { 8 } else { 2 },
            ascii: at(form.text + 3)?,
            compact: at(form.text + 3)? + 16,
            bytes_length: at(form.bytes)?,
            bytes: at(form.bytes + 1)?,
        },
        object_type,
        type_name: at(form.type_name)?,
    })
}

/// None inside is none; an offset that cannot be is none outside.
trait TransposeSome {
    fn transpose_some(self) -> Option<Option<usize>>;
}

impl TransposeSome for Option<Option<usize>> {
    fn transpose_some(self) -> Option<Option<usize>> {
        match self {
            None => Some(None),
            Some(inner) => inner.map(Some),
        }
    }
}
