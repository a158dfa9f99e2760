//! The way from a boot loader into Rust.
//!
//! PVH and both multiboots enter in 32-bit protected mode without paging, at whatever physical
//! address the image lies, with EBX pointing to what the loader has to say, and without a stack
//! (Xen public header `arch-x86/hvm/start_info.h`; Multiboot Specification 0.6.96, 3.2; Multiboot2
//! Specification 2.0, 3.5). Rust code belongs into the window that `afterburner pack` has moved the
//! wedge to. So the entry code finds out where it is, writes page tables that map the first 4 GB at
//! their own addresses and the wedge at its window, enters 64-bit mode, and goes there. Which
//! window that is it reads in `linked`: the address of the wedge's first byte, which was moved like
//! all addresses.
//!
//! How it finds out: a CALL pushes the address, and the one piece of memory that is known to be
//! writable is the loader's structure at EBX. Its first word serves as a stack for one instruction
//! and is put back.

use core::arch::global_asm;

use wedge::guest::layout::WINDOW_LENGTH;
use wedge::guest::linux::{BOOT_CS, BOOT_DS};
use wedge::image::LOAD_ADDRESS;
use wedge::x86::control::{cr0, cr4, efer};
use wedge::x86::msr;
use wedge::x86::segment::{FLAT_CODE, FLAT_DATA};

global_asm!(
    r#"
    .section .text.entry, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    movl %eax, %edi                     // what EAX says of the protocol
    movl %ebx, %esi                     // where the loader's structure is
    movl (%ebx), %edx
    leal 4(%ebx), %esp
    call mark
    .globl mark
mark:
    popl %ebp
    movl %edx, (%ebx)
    subl $mark_offset, %ebp             // physical address of the image

    // PML4, then the tables that it needs: each a page. Entry bits: present 1, writable 2, page
    // size 80 (SDM Vol. 3A, 4.5.4, tables 4-15 to 4-19).
    leal boot_tables_offset(%ebp), %ebx // PML4
    leal 0x1003(%ebx), %eax
    movl %eax, (%ebx)                   // entry 0: first 512 GB
    leal 0x2003(%ebx), %eax
    movl linked_offset+4(%ebp), %ecx    // the 512 GB with the window: bits 39 to 47
    shrl $7, %ecx
    andl $511, %ecx
    movl %eax, (%ebx,%ecx,8)
    leal 0x4003(%ebx), %eax             // four directories of 1 GB each, at their own addresses
    movl $0, %ecx
1:  movl %eax, 0x1000(%ebx,%ecx,8)
    addl $0x1000, %eax
    incl %ecx
    cmpl $4, %ecx
    jne 1b
    movl $0x83, %eax
    movl $0, %ecx
2:  movl %eax, 0x4000(%ebx,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 2b
    leal 0x3003(%ebx), %eax             // the GB with the window: bits 30 to 38
    movl linked_offset(%ebp), %edx
    movl linked_offset+4(%ebp), %ecx
    shldl $2, %edx, %ecx
    andl $511, %ecx
    movl %eax, 0x2000(%ebx,%ecx,8)
    shrl $21, %edx                      // the window, from bits 21 to 29 on: what is in front of the image, and the image
    andl $511, %edx
    leal 0x3000(%ebx,%edx,8), %edx
    leal 0x83-{LOAD_ADDRESS}(%ebp), %eax
    movl $0, %ecx
3:  movl %eax, (%edx,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl ${WINDOW_LENGTH} >> 21, %ecx
    jne 3b

    leal boot_descriptors_offset(%ebp), %eax
    leal 8(%eax), %ecx
    movl %ecx, 2(%eax)
    lgdt (%eax)
    movl %cr4, %eax
    orl ${PAE}, %eax
    movl %eax, %cr4
    movl %ebx, %cr3
    movl ${EFER}, %ecx
    rdmsr
    orl ${LME}, %eax
    wrmsr
    movl %cr0, %eax
    orl ${PG}|{WP}, %eax
    andl $~({CD}|{NW}), %eax            // caches on
    movl %eax, %cr0
    leal start64_offset(%ebp), %eax
    leal boot_descriptors_offset+48(%ebp), %ecx
    movl %eax, (%ecx)
    ljmpl *(%ecx)

    .code64
    .globl start64
start64:
    movl ${BOOT_DS}, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    jmpq *in_window(%rip)               // from the physical address to the window
4:  leaq boot_stack_end(%rip), %rsp
    movl %edi, %edi                     // what EAX said
    movl %esi, %esi                     // the loader's structure
    leal -{LOAD_ADDRESS}(%ebp), %edx          // physical address of the window
    xorl %ebp, %ebp
    call bare_start
    ud2

    .data
    .balign 16
    .globl boot_descriptors
boot_descriptors:                       // the operand of LGDT, then the table (SDM Vol. 3A, 3.4.5 and 5.2.1)
    .word 5*8-1
    .long 0
    .word 0
    .quad 0
    .quad 0
    .quad {FLAT_CODE}                   // BOOT_CS
    .quad {FLAT_DATA}                   // BOOT_DS
    .quad 0
    .long 0                             // operand of the far jump
    .word {BOOT_CS}
    .word 0

    .balign 8
    .globl linked
linked:
    .quad image_start
in_window:
    .quad 4b

    .bss
    .balign 4096
    .globl boot_tables
boot_tables:
    .skip 9 * 4096
boot_stack:
    .skip 262144
    .globl boot_stack_end
boot_stack_end:
    .text
    "#,
    BOOT_CS = const BOOT_CS,
    BOOT_DS = const BOOT_DS,
    PAE = const cr4::PAE,
    EFER = const msr::EFER,
    LME = const efer::LME,
    PG = const cr0::PG,
    WP = const cr0::WP,
    CD = const cr0::CD,
    NW = const cr0::NW,
    FLAT_CODE = const FLAT_CODE.0,
    FLAT_DATA = const FLAT_DATA.0,
    LOAD_ADDRESS = const LOAD_ADDRESS,
    WINDOW_LENGTH = const WINDOW_LENGTH,
    options(att_syntax)
);
