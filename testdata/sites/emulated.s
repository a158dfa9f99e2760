# What a hypervisor is to emulate: UD2, letters, and an instruction, which are one site.
	.file	1 "guest.c"
	.text
	.byte 0x0f,0x0b,0x78,0x65,0x6e ; cpuid	# site: forced-emulation
	.byte 0x0f,0x0b,0x6b,0x76,0x6d ; nop	# site: forced-emulation
	ud2; .ascii "xen"; cpuid		# site: forced-emulation
	UD2; .ASCII "xen"; cpuid		# site: forced-emulation
	ud2; .byte 'k', 'v', 'm'; rdpmc		# site: forced-emulation
	ud2
	.loc	1 2
	.byte	120
	.byte	101
	.byte	110
	# as clang prints it, with a comment
	rdmsr					# site-start: forced-emulation
	.byte	15
	.byte	11
	.byte	120
	.byte	101
	.byte	110
	cpuid					# site-start: forced-emulation
	.byte	0x0f, 0x0b, 'x, 'e, 'n, 0x0f, 0xa2	# site: forced-emulation
	nop
	.byte	0x90, 0x0f, 0x0b, 0x6b, 0x76, 0x6d, 0x0f, 0xa2, 0xfa, 0x90	# site: forced-emulation, cli
	nop
	.macro	forced instruction:vararg
	.ascii	"\x0f\x0bkvm"
	\instruction				# site-start: forced-emulation
	.endm
	forced	mov %cr3, %rax
	forced	lock incl (%rdi)
	# what is none
	ud2
	cpuid					# site: cpuid
	ud2
	js	1f
	outsb					# site: outs
1:	ud2
	.ascii	"xe"
