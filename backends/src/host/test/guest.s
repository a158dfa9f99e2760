# The smallest guest: a kernel that enters itself as Linux does, and one program. What it prints
# says what it has lived through.
#
#	k	it runs in the upper half, in its own page tables, with its own descriptor tables
#	p	it has handled a page fault of its own, and gone on behind it by IRETQ
#	t	its timer has woken it from HLT
#	T	its timer has waited while interrupts were masked, and has come with STI
#	u	its program has called it by INT 80H
#	s	its program has executed CPUID, in a single step, which has ended
#	c	its program has seen what the wedge says of the processor
#	g	its program has tried CLI, and has been refused
#
# Then it resets the machine.

	.set BASE, 0xffffffff80000000
	.set COM1, 0x3f8
	.set KERNEL_CODE, 0x10
	.set KERNEL_DATA, 0x18
	.set USER_DATA, 0x2b
	.set USER_CODE, 0x33
	.set TSS, 0x40
	.set NOWHERE, 0x7000000000
	.set PROGRAM, 0x400000

	.macro print character
	movb $\character, %al
	movw $COM1, %dx
	outb %al, %dx
	.endm

	.macro write port, value
	movb $\value, %al
	outb %al, $\port
	.endm

	# The gate of a vector leads to a handler (SDM Vol. 3A, figure 6-8).
	.macro gate vector, handler, type
	leaq \handler(%rip), %rax
	leaq idt+16*\vector(%rip), %rdi
	movw %ax, (%rdi)
	movw $KERNEL_CODE, 2(%rdi)
	movw $(\type << 8), 4(%rdi)
	shrq $16, %rax
	movw %ax, 6(%rdi)
	shrq $16, %rax
	movl %eax, 8(%rdi)
	.endm

	# One tick of the timer, soon: mode 0, binary (8254, "Programming the 82C54").
	.macro tick
	write 0x43, 0x30
	write 0x40, 0x04
	write 0x40, 0x00
	.endm

	.section .head.text, "ax"
	.globl _start
_start:
	movl $(top - BASE), %eax
	movq %rax, %cr3
	movabsq $start, %rax
	jmpq *%rax

	.text
start:
	leaq stack_end(%rip), %rsp
	leaq tss(%rip), %rax
	leaq gdt+TSS(%rip), %rdi
	movw $103, (%rdi)
	movw %ax, 2(%rdi)
	shrq $16, %rax
	movb %al, 4(%rdi)
	movb $0x89, 5(%rdi)
	shrq $8, %rax
	movb %al, 7(%rdi)
	shrq $8, %rax
	movl %eax, 8(%rdi)
	leaq stack_end(%rip), %rax
	movq %rax, tss+4(%rip)
	lgdt gdt_register(%rip)
	gate 1, step, 0x8e
	gate 13, protection_fault, 0x8e
	gate 14, page_fault, 0x8e
	gate 32, timer, 0x8e
	gate 128, system_call, 0xee
	lidt idt_register(%rip)
	movl $TSS, %eax
	ltr %ax
	print 'k'

	movabsq $NOWHERE, %rbx
	movq (%rbx), %rax
behind_fault:

	# 8259A: vectors from 32 on, only the timer's line.
	write 0x20, 0x11
	write 0x21, 32
	write 0x21, 4
	write 0x21, 1
	write 0x21, 0xfe
	movb $'t', %bl
	tick
1:	sti
	hlt
	cmpb $0, %bl
	jne 1b

	cli
	movb $'T', %bl
	tick
	movl $4000, %ecx
1:	subl $1, %ecx
	jnz 1b
	cmpb $0, %bl
	je wrong
	sti
	nop
	cmpb $0, %bl
	jne wrong

	pushq $USER_DATA
	pushq $(PROGRAM + 0x1000)
	pushq $0x302				# in single steps
	pushq $USER_CODE
	pushq $PROGRAM
	iretq

wrong:
	print '!'
reset:
	write 0x64, 0xfe
	hlt

page_fault:
	movq %cr2, %rax
	cmpq %rbx, %rax
	jne wrong
	print 'p'
	leaq 8(%rsp), %rsp
	leaq behind_fault(%rip), %rax
	movq %rax, (%rsp)
	iretq

timer:
	pushq %rax
	pushq %rdx
	movb %bl, %al
	movw $COM1, %dx
	outb %al, %dx
	movb $0, %bl
	write 0x20, 0x20
	popq %rdx
	popq %rax
	iretq

step:
	testb $3, 8(%rsp)
	jz wrong
	pushq %rax
	pushq %rdx
	print 's'
	popq %rdx
	popq %rax
	iretq

system_call:
	movw $COM1, %dx
	outb %al, %dx
	iretq

protection_fault:
	testb $3, 16(%rsp)
	jz wrong
	print 'g'
	jmp reset

	# It runs in user mode, at PROGRAM.
	.section .program, "a"
	movb $'u', %al
	int $0x80
	movl $0x80000000, %eax
	cpuid
	cmpl $0x80000021, %eax			# the processor itself has less
	jne 1f
	movb $'c', %al
	int $0x80
1:
	.byte 0xfa				# cli
	ud2

	.data
	.balign 4096
	.globl top, pointers, directory
top:
	.quad low_pointers - BASE + 7
	.fill 510, 8, 0
	.quad pointers - BASE + 3
low_pointers:
	.quad low_directory - BASE + 7
	.fill 511, 8, 0
low_directory:
	.quad 0x83				# the first 2 MB and the kernel's, at their own addresses
	.quad 0x200083
	.quad program_table - BASE + 7
	.fill 509, 8, 0
program_table:
	.quad program - BASE + 5
	.fill 511, 8, 0
pointers:
	.fill 510, 8, 0
	.quad directory - BASE + 3
	.quad 0
directory:
	.quad 0x83
	.quad 0x200083
	.fill 510, 8, 0
gdt:
	.quad 0, 0
	.quad 0x00af9a000000ffff, 0x00cf92000000ffff
	.quad 0, 0x00cff2000000ffff, 0x00affa000000ffff, 0
	.quad 0, 0
gdt_register:
	.word gdt_register - gdt - 1
	.quad gdt
idt_register:
	.word 129 * 16 - 1
	.quad idt

	.bss
	.balign 4096
idt:
	.skip 4096
tss:
	.skip 104
	.balign 4096
	.skip 4096
stack_end:
