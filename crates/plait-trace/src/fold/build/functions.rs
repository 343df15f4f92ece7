//! Functions, the stacks that were seen of them, and their places.

use std::collections::HashMap;

use super::{Builder, LOST, text};
use crate::fold::digest::Digest;
use crate::fold::frames;
use crate::fold::stacks::Weighed;
use crate::profile::{Frame, Function, Place, Profile, Sample};

impl Builder {
    /// The function of each frame of a process, by its index among all.
    pub(super) fn places(&mut self, digest: &Digest) -> Vec<usize> {
        let mut known: HashMap<u32, usize> = HashMap::new();
        let frames = &digest.log.frames;
        frames
            .iter()
            .map(|frame| *known.entry(frame.1).or_insert_with(|| self.function(digest, frame.1)))
            .collect()
    }

    fn function(&mut self, digest: &Digest, number: u32) -> usize {
        let place = match digest.log.functions.get(number as usize) {
            Some(&(name, file, line)) => Place {
                function: text(digest, name),
                file: text(digest, file),
                line,
            },
            None => Place {
                function: LOST.to_owned(),
                ..Place::default()
            },
        };
        let functions = &mut self.profile.functions;
        let pid = digest.log.pid;
        let index = *self.functions.entry(place).or_insert_with_key(|place| {
            functions.push(Function {
                place: place.clone(),
                pid: Some(pid),
                ..Function::default()
            });
            functions.len() - 1
        });
        if functions[index].pid != Some(pid) {
            functions[index].pid = None;
        }
        index
    }

    pub(super) fn sum_functions(&mut self, digest: &Digest, places: &[usize]) {
        let frames = &digest.log.frames;
        let mut cpu = vec![0_u64; frames.len() + 1];
        for (&frame, sums) in digest.threads.iter().flat_map(|thread| &thread.frames) {
            let Some(&place) = places.get((frame as usize).wrapping_sub(1)) else {
                continue;
            };
            let function = &mut self.profile.functions[place];
            function.times.merge(&sums.times);
            function.caused_gil_wait = function.caused_gil_wait.saturating_add(sums.caused);
            function.longest_gil_hold = function.longest_gil_hold.max(sums.longest);
            function.samples = function.samples.saturating_add(sums.samples);
            cpu[frame as usize] = cpu[frame as usize].saturating_add(sums.times.on_cpu());
        }
        // A function that is twice on a stack has its time once.
        let mut stamp = vec![0_u32; self.profile.functions.len()];
        for (frame, &time) in (0_u32..).zip(&cpu).filter(|(_, time)| **time > 0) {
            let mut at = frame;
            while at > 0 {
                let place = places[at as usize - 1];
                if stamp[place] != frame {
                    stamp[place] = frame;
                    let total = &mut self.profile.functions[place].total_cpu;
                    *total = total.saturating_add(time);
                }
                at = frames[at as usize - 1].0;
            }
        }
    }

    /// Lists the samples of a process, and the frames that they need. Gives the place of each frame.
    pub(super) fn samples(&mut self, digest: &Digest, places: &[usize], base: usize) -> FramesOf {
        let mut found: Vec<Option<usize>> = vec![None; places.len()];
        for (index, thread) in (base..).zip(&digest.threads) {
            for sample in &thread.samples {
                if let Some(frame) = self.frame(digest, places, &mut found, sample.frame) {
                    self.sample(index, frame, sample);
                }
            }
        }
        let functions = places.iter().map(|&place| self.profile.functions[place].place.clone());
        let lines = digest.log.frames.iter().map(|frame| frame.2);
        FramesOf(
            functions
                .zip(lines)
                .map(|(place, line)| Place { line, ..place })
                .collect(),
        )
    }

    fn frame(&mut self, digest: &Digest, places: &[usize], found: &mut [Option<usize>], frame: u32) -> Option<usize> {
        let mut chain = Vec::new();
        let mut at = frame;
        while at > 0 && found.get(at as usize - 1)?.is_none() {
            chain.push(at);
            at = digest.log.frames[at as usize - 1].0;
        }
        for number in chain.into_iter().rev() {
            let (caller, _, line) = digest.log.frames[number as usize - 1];
            let caller = (caller as usize).checked_sub(1).and_then(|index| found[index]);
            let frames = &mut self.profile.stacks.frames;
            frames.push(Frame {
                function: places[number as usize - 1],
                line,
                caller,
            });
            found[number as usize - 1] = Some(frames.len() - 1);
        }
        found[frame as usize - 1]
    }

    fn sample(&mut self, thread: usize, frame: usize, sample: &Weighed) {
        let samples = &mut self.profile.stacks.samples;
        let (weight, state, why) = (sample.weight, sample.state, sample.why);
        let at = sample.at.saturating_sub(self.profile.origin);
        if samples.len() < self.options.samples {
            samples.push(Sample {
                thread,
                at,
                frame,
                weight,
                state,
                why,
            });
        } else if self.options.samples > 0 {
            let index = *self.crowded.entry((thread, frame, state)).or_insert_with(|| {
                samples.push(Sample {
                    thread,
                    at,
                    frame,
                    weight: 0,
                    state,
                    why,
                });
                samples.len() - 1
            });
            samples[index].weight = samples[index].weight.saturating_add(weight);
        }
    }
}

/// The places of the frames of a process.
pub(super) struct FramesOf(Vec<Place>);

impl FramesOf {
    pub(super) fn place(&self, frame: u32) -> Option<Place> {
        self.0.get((frame as usize).checked_sub(1)?).cloned()
    }

    /// The innermost place of the program's own for which a frame of a library is there.
    pub(super) fn reason(&self, digest: &Digest, frame: u32) -> Option<Place> {
        let own = frames::own(&digest.log, frame);
        self.place(own).filter(|_| own != frame)
    }
}

/// Those that used most first.
pub(super) fn order_functions(profile: &mut Profile) {
    for function in &mut profile.functions {
        function.self_cpu = function.times.on_cpu();
    }
    let mut order: Vec<usize> = (0..profile.functions.len()).collect();
    order.sort_by(|&one, &other| {
        let key = |index: usize| {
            let function = &profile.functions[index];
            (
                function.self_cpu,
                function.caused_gil_wait,
                function.times.sum(),
                function.total_cpu,
            )
        };
        key(other)
            .cmp(&key(one))
            .then_with(|| profile.functions[one].place.cmp(&profile.functions[other].place))
    });
    let mut moved = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        moved[old] = new;
    }
    for frame in &mut profile.stacks.frames {
        frame.function = moved[frame.function];
    }
    profile.functions = order.iter().map(|&index| profile.functions[index].clone()).collect();
}
