//! Tells the binding which interpreter it is built for: without a GIL, what the GIL guards needs a lock.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
