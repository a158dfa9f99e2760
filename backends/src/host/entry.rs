//! What the ways into the wedge have in common, as text for the assembler.
//!
//! A context is on the wedge's stack, from RAX upwards, as the processor would push it: RAX,
//! vector, error code, RIP, CS, RFLAGS, RSP, SS. The other registers follow.
//!
//! Where sites come from stubs, all registers are as at the site, and the mask tells the virtual
//! IF. By CALL they come with the address behind the site on the guest's stack; by JMP with IF
//! clear, or about to be replaced, and there is no stack.

use wedge::x86::flags;

/// Pushes the registers below RAX.
macro_rules! save_rest {
    () => {
        r#"
    .irp register, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pushq %\register
    .endr
"#
    };
}

/// Pops all registers.
macro_rules! load_all {
    () => {
        r#"
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    popq %\register
    .endr
"#
    };
}

/// Calls a function with a context that is complete.
///
/// None of the flags is in force that would change what the wedge executes. A program's are in the
/// kernel's first instructions behind SYSENTER: the processor would step through the wedge, or NT
/// would make its IRETQ a fault (SDM Vol. 2B, SYSENTER; Vol. 2A, IRET).
macro_rules! call_with_context {
    ($function:literal) => {
        concat!(
            r#"
    testl ${MASKED}, 152(%rsp)          // RFLAGS: 15 registers, vector, error, rip, cs
    jz 9f
    pushq ${FIXED}
    popfq
9:  movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call "#,
            $function,
            r#"
    movq %rbx, %rsp
"#
        )
    };
}

/// The flags that [`call_with_context`] clears.
pub(super) const MASKED: u64 = flags::TRAP | flags::DIRECTION | flags::NESTED | flags::ALIGNMENT;

/// The routines `HOST_emulate`, `HOST_interrupt`, `HOST_emulate_without_stack`, `HOST_iret` and
/// `HOST_sysret`, which stubs lead to; each ends at `HOST_enter`.
macro_rules! ways_from_stubs {
    ($host:literal) => {
        concat!(
            $crate::host::entry::way!($host, "emulate", by_call, "SITE", with_saved_rax),
            $crate::host::entry::way!($host, "interrupt", by_call, "EVENT", with_saved_rax),
            $crate::host::entry::way!($host, "emulate_without_stack", by_jump, "SITE_WITHOUT_STACK", with_if_clear),
            $crate::host::entry::way!($host, "iret", by_jump, "IRET", with_if_clear),
            $crate::host::entry::way!($host, "sysret", by_jump, "SYSRET", with_if_clear),
        )
    };
}

/// One of them: what it does before it pushes the cause, and behind that.
macro_rules! way {
    ($host:literal, $name:literal, $front:ident, $cause:literal, $back:ident) => {
        concat!(
            "\n.globl ",
            $host,
            "_",
            $name,
            "\n",
            $host,
            "_",
            $name,
            ":\n",
            $crate::host::entry::$front!(),
            "    pushq ${",
            $cause,
            "}\n",
            $crate::host::entry::$back!(),
            "    jmp ",
            $host,
            "_enter\n"
        )
    };
}

/// The upper part of a context, at the top of the wedge's stack.
macro_rules! frame {
    () => {
        r#"
    movb $1, {cpu}+{mask}(%rip)
    movq %rsp, {cpu}+{saved_rsp}(%rip)
    leaq {cpu}+{stack_end}(%rip), %rsp
    pushq ${KERNEL_DS}
    pushq {cpu}+{saved_rsp}(%rip)
    pushfq
    pushq ${KERNEL_CS}
"#
    };
}

macro_rules! by_call {
    () => {
        concat!(
            r#"
    movq %rax, {cpu}+{saved_rax}(%rip)
    movzbl {cpu}+{mask}(%rip), %eax
"#,
            $crate::host::entry::frame!(),
            r#"
    shll ${IF_NUMBER}, %eax
    xorq %rax, 8(%rsp)                  // RFLAGS with the virtual IF: the real one is always set
    movq 16(%rsp), %rax
    addq $8, 16(%rsp)                   // the guest's RSP, without the return address
    pushq (%rax)
    pushq $0
"#
        )
    };
}

macro_rules! with_saved_rax {
    () => {
        concat!("    pushq {cpu}+{saved_rax}(%rip)\n", $crate::host::entry::save_rest!())
    };
}

macro_rules! by_jump {
    () => {
        concat!($crate::host::entry::frame!(), "    pushq $0\n    pushq $0\n")
    };
}

macro_rules! with_if_clear {
    () => {
        concat!(
            "    pushq %rax\n",
            $crate::host::entry::save_rest!(),
            "    andb $~({IF}>>8), 153(%rsp)         // RFLAGS.IF\n"
        )
    };
}

pub(super) use {
    by_call, by_jump, call_with_context, frame, load_all, save_rest, way, ways_from_stubs, with_if_clear,
    with_saved_rax,
};
