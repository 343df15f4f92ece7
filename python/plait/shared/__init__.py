"""Memory that processes share: `share` and `Shared` in `_share`, `shared_array` in `_array`, how it travels in `_segment`."""
