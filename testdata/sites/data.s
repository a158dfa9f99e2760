# Characters and tables that nothing executes, although a disassembler would find something sensitive in them.
	.text
	ud2
	.ascii	"no entry, line 1"	# site: outs data
	nop
	int3
	.asciz	"on"			# site: outs data
	cli				# site: cli counted
	jmp	1f
	.byte	0x0f, 0x01, 0xca, 0x0f	# site: clac data
1:	ret
	.byte	0xfa, 0xfb, 0x0f
	.globl	table
	.byte	0x0f, 0xff		# site-start: cli data
table:	.byte	0x66, 0xf4, 0x0f	# site: hlt data
	.globl	function
function:
	ud2
	.ascii	"xem"			# site: ins data
	cpuid				# site: cpuid counted
	.globl	last
last:	int3
	.byte	0xfa			# site: cli
	ret
	.section .rodata
	.quad	function, last
