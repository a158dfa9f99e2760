/* The page of system calls by address, which no program reaches here (X86_VSYSCALL_EMULATION). */
#ifndef AFTERBURNER_VSYSCALL_H
#define AFTERBURNER_VSYSCALL_H
#include_next <uapi/asm/vsyscall.h>
#undef VSYSCALL_ADDR
#define VSYSCALL_ADDR		(__START_KERNEL_map + 0x7f600000UL)
#endif
