//! Stacks read from memory, in the form that the observer asks for.

use plait_trace::record::Tid;

use crate::stack::{self, Miss, PyThread, Stack};
use crate::stacks::{Function, NoStack, Stacks};

/// See the module.
#[derive(Debug)]
pub struct Reader {
    stacks: stack::Stacks,
    threads: Vec<PyThread>,
    stack: Stack,
}

impl Reader {
    /// Reads with `stacks`.
    #[must_use]
    pub fn new(stacks: stack::Stacks) -> Reader {
        Reader {
            stacks,
            threads: Vec::new(),
            stack: Stack::default(),
        }
    }
}

impl Stacks for Reader {
    fn threads(&mut self, out: &mut Vec<(Tid, usize)>) -> Result<(), NoStack> {
        self.stacks.threads(&mut self.threads).map_err(|_| NoStack::Refused)?;
        out.extend(self.threads.iter().map(|thread| (thread.tid, thread.state)));
        Ok(())
    }

    fn stack(&mut self, thread: usize, out: &mut Vec<(u32, u32)>) -> Result<(), NoStack> {
        let Some(thread) = self.threads.iter().find(|each| each.state == thread) else {
            return Err(NoStack::Gone);
        };
        self.stacks.stack(thread, &mut self.stack).map_err(|miss| match miss {
            Miss::Ended => NoStack::Gone,
            Miss::Torn => NoStack::Torn,
            Miss::Memory(_) => NoStack::Refused,
        })?;
        let frames = self.stack.frames.iter().rev();
        out.extend(frames.map(|frame| (frame.function, frame.line)));
        Ok(())
    }

    fn function(&self, number: u32) -> Function {
        let function = self.stacks.functions().get(number as usize);
        function.map_or_else(Function::default, |function| Function {
            name: function.name.clone(),
            file: function.file.clone(),
            line: function.line,
        })
    }
}
