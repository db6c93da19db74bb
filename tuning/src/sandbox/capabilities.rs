//! Capabilities: what root may, in pieces (capabilities(7)). They belong to a thread and are inherited.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use super::Layer;

/// What binding sockets may need: ports below 1024, and receive buffers above `net.core.rmem_max`.
const BINDING: [Capability; 2] = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_ADMIN];

fn worded(error: CapsError) -> String {
    error.to_string()
}

/// Whether the effective user is root.
pub(super) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Leaves the calling thread those capabilities it has and binding may need; nothing can bring back the others.
pub(super) fn keep_for_binding() -> Result<Layer, String> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(worded)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        // Only who has this one may; for others, an exec under `no_new_privs` gains nothing either way.
        caps::clear(None, CapSet::Bounding).map_err(worded)?;
    }
    let kept: CapsHashSet = BINDING.into_iter().filter(|capability| permitted.contains(capability)).collect();
    set(&kept)?;
    let dropped = permitted.len() - kept.len();
    Ok(Layer::InForce(match (dropped, kept.len()) {
        (0, 0) => "none, as there were none".to_owned(),
        (dropped, kept) => format!("none, {} dropped", dropped + kept),
    }))
}

/// Leaves the calling thread none.
pub(super) fn drop_all() -> Result<(), String> {
    set(&CapsHashSet::new())
}

fn set(kept: &CapsHashSet) -> Result<(), String> {
    // Kernels before 4.3 have no ambient set, and ours is newer; one that refuses has nothing in it.
    let _ = caps::clear(None, CapSet::Ambient);
    // In this order: what is effective must be permitted.
    caps::set(None, CapSet::Effective, kept).map_err(worded)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(worded)?;
    caps::set(None, CapSet::Permitted, kept).map_err(worded)
}
