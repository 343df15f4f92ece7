//! The texts of a process: those that it has defined, and those that are found out here. The process goes on to number its own from where it
//! was when it is rolled up, so what is found out is numbered from the other end.

use std::collections::{BTreeMap, HashMap};

use crate::record::Text;

/// No more texts than so many are found out, whatever a trace says.
const MOST: u32 = u32::MAX / 2;

#[derive(Default)]
pub(crate) struct Texts {
    defined: Vec<String>,
    /// By how far below the greatest their numbers are: some may be lost.
    derived: BTreeMap<u32, String>,
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
        let next = self.derived.last_key_value().map_or(0, |(last, _)| last + 1);
        let number = Text(u32::MAX - next);
        self.derived(number, text.to_owned());
        number
    }

    /// Takes one that was found out before.
    pub(crate) fn derived(&mut self, number: Text, text: String) {
        let place = u32::MAX - number.0;
        if place < MOST {
            self.known.entry(text.clone()).or_insert(number);
            self.derived.insert(place, text);
        }
    }

    /// None for 0, which is no text, and for one that was lost.
    pub(crate) fn get(&self, number: Text) -> Option<&str> {
        let index = number.0.checked_sub(1)? as usize;
        let text = self.defined.get(index);
        text.or_else(|| self.derived.get(&(u32::MAX - number.0)))
            .map(String::as_str)
    }

    /// In the order of their numbers, from either end; the latter with these.
    pub(crate) fn into_parts(self) -> (Vec<String>, Vec<(Text, String)>) {
        let derived = self.derived.into_iter();
        let numbered = derived.map(|(place, text)| (Text(u32::MAX - place), text));
        (self.defined, numbered.collect())
    }
}
