//! The texts of a process: those that it has defined, and those that are found out here. The process goes on to number its own from where it
//! was when it is rolled up, so what is found out is numbered from the other end.

use std::collections::HashMap;

use crate::record::Text;

#[derive(Default)]
pub(crate) struct Texts {
    defined: Vec<String>,
    derived: Vec<String>,
    /// The numbers of the latter.
    known: HashMap<String, Text>,
}

impl Texts {
    pub(crate) fn define(&mut self, text: String) {
        self.defined.push(text);
    }

    /// The number of a text that is found out here, always the same for the same.
    pub(crate) fn derive(&mut self, text: &str) -> Text {
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        self.derived(text.to_owned())
    }

    /// Takes one that was found out before.
    pub(crate) fn derived(&mut self, text: String) -> Text {
        let number = Text(u32::MAX - self.derived.len() as u32);
        self.known.entry(text.clone()).or_insert(number);
        self.derived.push(text);
        number
    }

    /// None for 0, which is no text, and for one that was lost.
    pub(crate) fn get(&self, number: Text) -> Option<&str> {
        let index = number.0.checked_sub(1)? as usize;
        let text = self.defined.get(index);
        text.or_else(|| self.derived.get((u32::MAX - number.0) as usize))
            .map(String::as_str)
    }

    /// In the order of their numbers, from either end.
    pub(crate) fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.defined, self.derived)
    }
}
