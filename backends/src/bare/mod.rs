//! Bare hardware.
#![allow(unsafe_code)]
mod boot;
mod console;
mod entry;
mod exceptions;
mod heap;
mod lock;
mod paging;
mod physical;
mod resident;
mod world;
mod hooks;

use console::say;

extern "C" fn start(eax: u32, information: u64, base: u64) -> ! {
    console::Console::set_up();
    exceptions::set_up();
    let failure = boot::boot(eax, information, base);
    say!("{failure}");
    stop()
}

fn stop() -> ! {
    say!("stopped");
    loop { x86_64::instructions::hlt(); }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    stop()
}
