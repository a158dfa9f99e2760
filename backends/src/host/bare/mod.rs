//! Bare hardware, or a virtual machine that looks like it: the wedge and its guest run in ring 0,
//! the guest's page tables and interrupts are the machine's.
//!
//! The wedge is a boot loader first ([`entry`], [`boot`], [`physical`]) and a resident later
//! ([`resident`]): a window in the guest's address space ([`paging`]), code that hooked sites call
//! ([`hooks`]), gates in front of some of the guest's exceptions ([`exceptions`]), and a way to
//! make the other processors stand still ([`world`]). If the guest's end leads back to where it
//! began, it resets the machine ([`reset`]).
//!
//! Everything here that touches the machine is unsafe in Rust's sense. Each block says who
//! guarantees what; the modules' interfaces are safe where the guarantee can be theirs.
#![expect(unsafe_code, reason = "the machine is reached by addresses and instructions that Rust knows nothing of")]

mod boot;
mod console;
mod context;
mod entry;
mod exceptions;
mod hooks;
mod lock;
mod paging;
mod physical;
mod reset;
mod resident;
mod world;

use console::Console;

use crate::runtime::log::{self, use_console};
use crate::runtime::say;

/// What the wedge writes to, and how it ends.
static CONSOLE: log::Console = log::Console { write: console::write, stop };

/// Entered by the code in [`entry`], with paging on and a stack: once, or again without having been
/// loaded again.
#[unsafe(no_mangle)]
extern "C" fn bare_start(eax: u32, information: u64, base: u64) -> ! {
    Console::set_up();
    use_console(&CONSOLE);
    if reset::is_entered_again() {
        say!("entered again without having been loaded again: the machine is reset");
        reset::reset()
    }
    exceptions::set_up();
    boot::boot(eax, information, base);
    stop()
}

/// The end of a boot that cannot go on. The machine stays as it is, so that the message can be
/// read.
fn stop() -> ! {
    say!("stopped");
    loop {
        x86_64::instructions::hlt();
    }
}
