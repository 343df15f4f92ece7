"""The event loop: `plait.EventLoop`, `new_event_loop`, `run`, `install`."""
