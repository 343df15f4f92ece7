//! What children did that were not observed: programs that are not Python, and all where children are left alone.

use super::{limit, seconds, share};
use crate::profile::Profile;
use crate::record::WaitKind;

/// What is known of them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Children {
    /// How many cores they used on average, those of them that have ended.
    pub(super) cores: f64,
    /// The part of the wall time for which a thread waited for the end of one of which not even that is known.
    pub(super) unknown: f64,
}

impl Children {
    pub(super) fn of(profile: &Profile, wall: f64) -> Children {
        let told = profile.processes.iter().any(|process| process.children.is_some());
        let waited = profile.threads.iter().map(|thread| {
            let waits = thread.waits.iter().filter(|wait| wait.kind == Some(WaitKind::Child));
            waits.map(|wait| wait.time).fold(0, u64::saturating_add)
        });
        let waited = share(seconds(waited.max().unwrap_or(0)), wall).min(1.0);
        Children {
            cores: share(seconds(unseen(profile)), wall),
            unknown: if told || profile.processes.len() > 1 {
                0.0
            } else {
                waited
            },
        }
    }

    /// Whether they computed, and more than what was observed did.
    pub(super) fn compute(&self, observed: f64) -> bool {
        self.cores >= limit::CHILDREN && self.cores > observed
    }

    /// Whether they may have.
    pub(super) fn may_compute(&self) -> bool {
        self.unknown >= limit::WAIT
    }
}

/// CPU time of those that were not observed. What a process knows of its children is with theirs, so each that was observed is taken off, as is
/// what looking at it took. Who has started one is not always known (a server forks on behalf of others): all that began after it count as its own.
fn unseen(profile: &Profile) -> u64 {
    let of = profile.processes.iter().enumerate().filter_map(|(index, process)| {
        let others = profile.processes.iter().enumerate();
        let later = others.filter(|(other, each)| *other != index && each.start >= process.start);
        let seen = later.map(|(_, each)| each.cpu).fold(0, u64::saturating_add);
        let looking = if profile.processes.len() > 1 {
            profile.overhead.observer_cpu
        } else {
            0
        };
        Some(process.children?.saturating_sub(seen).saturating_sub(looking))
    });
    of.max().unwrap_or(0)
}
