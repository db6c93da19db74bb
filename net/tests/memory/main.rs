//! What clients can make a core keep, counted in bytes allocated on its thread.

mod counting;
mod half_open;
mod idle;
mod server;
mod tampering;
mod transport_frames;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
