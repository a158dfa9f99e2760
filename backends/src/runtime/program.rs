//! The wedge as the program that its linker script and `afterburner pack` make of it.

use wedge::image::{LOAD_ADDRESS, Parameters, Span};

use super::{log, say};

unsafe extern "C" {
    /// The wedge's first byte.
    static image_start: u8;
    /// The end of what is linked, in whole pages.
    static image_end: u8;
}

/// Where the window begins that `afterburner pack` has put the wedge into.
#[inline]
pub(crate) fn window() -> u64 {
    (&raw const image_start).addr() as u64 - LOAD_ADDRESS
}

/// Bytes of the wedge itself.
pub(crate) fn own_length() -> u64 {
    (&raw const image_end).addr() as u64 - window() - LOAD_ADDRESS
}

/// Written by `afterburner pack`.
#[unsafe(link_section = ".parameters")]
#[used]
static mut PARAMETERS: Parameters =
    Parameters { load_address: 0, arena: Span { offset: 0, length: 0 }, payload: Span { offset: 0, length: 0 } };

/// What `afterburner pack` has written.
pub(crate) fn parameters() -> Parameters {
    // SAFETY: written by `afterburner pack`, and by nobody at run time.
    unsafe { (&raw const PARAMETERS).read_volatile() }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    log::stop()
}
