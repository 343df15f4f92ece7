//! What threads wait for outside: how many are served at once, and by what.

use crate::program::ThreadId;
use std::collections::VecDeque;

/// Something that threads wait for: a disk, a server, child processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resource {
    /// How many are served at once; the others stand in line. `None`: waits overlap without limit.
    pub servers: Option<u32>,
    /// The wait is work of others on cores of this machine (a child process, a server beside it), and so competes for them.
    pub on_cores: bool,
    /// Each process has its own, which its threads share: a lock within a C library.
    pub in_process: bool,
    /// Percent by which serving takes longer for those that had to stand in line: they are in one another's way.
    pub contended_percent: u32,
    /// All that stand in line are served together once there is a server, for as long as the longest of them takes: a disk that commits.
    pub together: bool,
}

/// For whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Thread(ThreadId),
    /// What an event loop calls it.
    Token(u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) client: Client,
    pub(crate) ns: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) resource: Resource,
    active: u32,
    line: VecDeque<Request>,
    /// Who is served together with whom, beside the one that the service is for.
    groups: Vec<(Client, Vec<Client>)>,
}

impl Service {
    pub(crate) fn new(resource: Resource) -> Self {
        Self {
            resource,
            ..Self::default()
        }
    }

    /// The request itself, if it is served at once.
    pub(crate) fn ask(&mut self, request: Request) -> Option<Request> {
        if self
            .resource
            .servers
            .is_some_and(|servers| self.active >= servers.max(1))
        {
            let more = u128::from(request.ns) * u128::from(self.resource.contended_percent) / 100;
            let ns = request.ns.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
            self.line.push_back(Request { ns, ..request });
            return None;
        }
        self.active += 1;
        Some(request)
    }

    /// Those that were served together with this one.
    pub(crate) fn beside(&mut self, client: Client) -> Vec<Client> {
        let group = self.groups.iter().position(|(first, _)| *first == client);
        group.map_or_else(Vec::new, |place| self.groups.swap_remove(place).1)
    }

    /// One was served. Who is next?
    pub(crate) fn served(&mut self) -> Option<Request> {
        let Some(first) = self.line.pop_front() else {
            self.active -= 1;
            return None;
        };
        if !self.resource.together || self.line.is_empty() {
            return Some(first);
        }
        let ns = self.line.iter().fold(first.ns, |most, other| most.max(other.ns));
        let others = self.line.drain(..).map(|other| other.client).collect();
        self.groups.push((first.client, others));
        Some(Request { ns, ..first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_in_line_is_served_more_slowly() {
        let mut service = Service::new(Resource {
            servers: Some(1),
            contended_percent: 50,
            ..Resource::default()
        });
        let request = |ns| Request {
            client: Client::Token(0),
            ns,
        };
        assert_eq!(service.ask(request(10)).map(|one| one.ns), Some(10));
        assert!(service.ask(request(10)).is_none());
        assert_eq!(service.served().map(|one| one.ns), Some(15));
        assert!(service.served().is_none());
        assert_eq!(service.ask(request(10)).map(|one| one.ns), Some(10));
    }

    #[test]
    fn who_stands_in_line_is_served_together() {
        let mut service = Service::new(Resource {
            servers: Some(1),
            together: true,
            ..Resource::default()
        });
        let token = Client::Token;
        let request = |number, ns| Request {
            client: token(number),
            ns,
        };
        assert!(service.ask(request(0, 10)).is_some());
        for (number, ns) in [(1, 20), (2, 100), (3, 30)] {
            assert!(service.ask(request(number, ns)).is_none());
        }
        assert_eq!(service.beside(token(0)), []);
        let next = service.served().map(|one| (one.client, one.ns));
        assert_eq!(next, Some((token(1), 100)));
        assert!(service.ask(request(4, 10)).is_none());
        assert_eq!(service.beside(token(1)), [token(2), token(3)]);
        assert_eq!(service.served().map(|one| (one.client, one.ns)), Some((token(4), 10)));
        assert_eq!(service.beside(token(4)), []);
        assert!(service.served().is_none());
    }

    #[test]
    fn those_beyond_the_limit_are_served_in_turn() {
        let mut service = Service::new(Resource {
            servers: Some(2),
            ..Resource::default()
        });
        let request = |number| Request {
            client: Client::Token(number),
            ns: 1,
        };
        let token = |request: Option<Request>| match request {
            Some(Request {
                client: Client::Token(number),
                ..
            }) => Some(number),
            _ => None,
        };
        assert_eq!(token(service.ask(request(0))), Some(0));
        assert_eq!(token(service.ask(request(1))), Some(1));
        assert_eq!(token(service.ask(request(2))), None);
        assert_eq!(token(service.ask(request(3))), None);
        assert_eq!(token(service.served()), Some(2));
        assert_eq!(token(service.served()), Some(3));
        assert_eq!(token(service.served()), None);
        assert_eq!(token(service.ask(request(4))), Some(4));
    }
}
