//! What is to be done, as plain data: items, each a list of bursts, and what it takes to send them to another process.
//!
//! An item is one call of the function that does the work. A recorded sample stands for all of them.

use crate::io::Resource;

/// What a burst needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// A core, and the GIL.
    #[default]
    HoldCpu,
    /// The GIL, and no core: it sleeps with it, as a fork does.
    HoldOff,
    /// A core, and no GIL: C code that lets it go.
    ReleasedCpu,
    /// Neither: it waits for a resource, by its index in [`Workload::resources`].
    Blocked {
        /// Which.
        resource: u32,
    },
}

/// A stretch of an item's time that is all of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Burst {
    /// What it needs.
    pub kind: Kind,
    /// How long, in nanoseconds; CPU time if it needs a core.
    pub ns: u64,
    /// How often the GIL is let go for an instant too short to be a burst of its own; of [`Kind::HoldCpu`].
    pub short_releases: u32,
    /// The longest part of a [`Kind::HoldCpu`] that does not look whether the GIL was asked for.
    pub longest_uninterruptible_ns: u64,
}

impl Burst {
    /// With nothing but a kind and a length.
    #[must_use]
    pub fn new(kind: Kind, ns: u64) -> Self {
        Self {
            kind,
            ns,
            ..Self::default()
        }
    }
}

/// A value on its way to another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parcel {
    /// CPU time of pickling it.
    pub pickle_ns: u64,
    /// CPU time of unpickling it.
    pub unpickle_ns: u64,
    /// How large it is pickled.
    pub bytes: u64,
}

/// One call of the function.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Item {
    /// What it does, in order.
    pub bursts: Vec<Burst>,
    /// Its arguments.
    pub argument: Parcel,
    /// What it returns.
    pub result: Parcel,
    /// What it takes whoever keeps all results for there being one more: see [`Item::keeping`].
    pub kept: Burst,
    /// What the collector takes, in passes that this call brings on, for all else that the program has: nothing in a worker with a heap
    /// of its own.
    pub heap: Burst,
}

impl Item {
    /// How long it takes alone.
    #[must_use]
    pub fn ns(&self) -> u64 {
        self.bursts.iter().chain(self.collecting()).map(|burst| burst.ns).sum()
    }

    /// The part of it that is the collector's.
    pub(crate) fn collecting(&self) -> [&Burst; 2] {
        [&self.kept, &self.heap]
    }

    /// A burst in which the collector looks at results that are kept, or at all else, or in which they are freed.
    #[must_use]
    pub fn keeping(ns: u64) -> Burst {
        Burst {
            longest_uninterruptible_ns: ns,
            ..Burst::new(Kind::HoldCpu, ns)
        }
    }
}

/// Calls of a function.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Workload {
    /// Those that were recorded, in order.
    pub items: Vec<Item>,
    /// How many there are in all.
    pub count: usize,
    /// What bursts wait for.
    pub resources: Vec<Resource>,
}

/// Why a workload makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Invalid {
    /// There is no item to learn from.
    NoItems,
    /// More were recorded than there are.
    CountTooSmall,
    /// An item waits for a resource that is not there.
    NoSuchResource {
        /// Which item.
        item: usize,
        /// Which resource.
        resource: u32,
    },
    /// An item takes longer than 2^60 nanoseconds (36 years).
    TooLong {
        /// Which item.
        item: usize,
    },
    /// There are no cores to run on.
    NoCores,
    /// There are no workers.
    NoWorkers,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoItems => write!(f, "a workload needs an item at least"),
            Self::CountTooSmall => write!(f, "a workload has at least as many items as were recorded"),
            Self::NoSuchResource { item, resource } => {
                write!(f, "item {item} waits for resource {resource}, which is not there")
            }
            Self::TooLong { item } => write!(f, "item {item} takes longer than 36 years"),
            Self::NoCores => write!(f, "a machine needs a core at least"),
            Self::NoWorkers => write!(f, "a pool needs a worker at least"),
        }
    }
}

impl std::error::Error for Invalid {}

/// No item is longer, so that sums fit.
const LONGEST_NS: u64 = 1 << 60;

impl Workload {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.items.is_empty() {
            return Err(Invalid::NoItems);
        }
        if self.count < self.items.len() {
            return Err(Invalid::CountTooSmall);
        }
        for (item, one) in self.items.iter().enumerate() {
            let mut left = LONGEST_NS;
            let parcels = [one.argument, one.result].map(|parcel| [parcel.pickle_ns, parcel.unpickle_ns]);
            for ns in one
                .bursts
                .iter()
                .chain(one.collecting())
                .map(|burst| burst.ns)
                .chain(parcels.into_iter().flatten())
            {
                left = left.checked_sub(ns).ok_or(Invalid::TooLong { item })?;
            }
            for burst in &one.bursts {
                if let Kind::Blocked { resource } = burst.kind
                    && self.resources.len() <= resource as usize
                {
                    return Err(Invalid::NoSuchResource { item, resource });
                }
            }
        }
        Ok(())
    }

    /// How long an item takes alone, on the average.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        let total: u128 = self.items.iter().map(|item| u128::from(item.ns())).sum();
        (total / self.items.len().max(1) as u128) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let item = Item {
            bursts: vec![Burst::new(Kind::Blocked { resource: 1 }, 5)],
            ..Item::default()
        };
        let workload = |items: Vec<Item>, count, resources| Workload {
            items,
            count,
            resources: vec![Resource::default(); resources],
        };
        let check = |workload: Workload| workload.check();
        assert_eq!(check(workload(vec![], 1, 0)), Err(Invalid::NoItems));
        assert_eq!(
            check(workload(vec![item.clone(); 2], 1, 2)),
            Err(Invalid::CountTooSmall)
        );
        assert_eq!(
            check(workload(vec![item.clone()], 1, 1)),
            Err(Invalid::NoSuchResource { item: 0, resource: 1 })
        );
        assert_eq!(check(workload(vec![item], 1, 2)), Ok(()));
        let long = Item {
            bursts: vec![Burst::new(Kind::HoldCpu, u64::MAX)],
            ..Item::default()
        };
        assert_eq!(check(workload(vec![long], 1, 0)), Err(Invalid::TooLong { item: 0 }));
    }
}
