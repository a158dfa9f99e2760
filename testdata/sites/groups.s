# Sites in section groups: their records are members of the same groups.
	.macro off
	cli				# site: cli
	.endm
	.macro apply code
	\code
	.endm
	.text
	sti				# site: sti shadow
	off
	.section .text.first,"axG",@progbits,first,comdat
	.weak	first
first:	cli				# site: cli
	off
	apply	"rdtsc; nop"		# site: rdtsc
	.pushsection .altinstr_replacement.first,"ax?",@progbits
	.byte	0x0f, 0x01, 0xca	# site: clac
	.popsection
	sti				# site: sti
	ret
	.section .text.second,"axG",@progbits,second,comdat
	.globl	second
second:	apply	"sti"			# site: sti shadow
	off
	.section .text.alone,"ax"
	hlt				# site: hlt
