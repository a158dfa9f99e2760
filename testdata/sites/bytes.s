# Instructions encoded by hand.
	.text
	.byte	0x0f, 0x01, 0xca	# site: clac
	.byte 0x0f,0x01,0xcb		# site: stac
	.byte	15
	.byte	1
	.byte	238			# site-start: rdpkru
	.byte	0x48, 0x0f, 0xc7, 0x2f	# site: xsaves
	.byte	0x0f, 0x30 ; nop	# site: wrmsr
	.byte	0xf3; insb		# site: ins
	nop
1:	.byte	0x0f, 0x01, 0xd0	# site: xgetbv
	# several in a row, and one that ends within a directive
	.byte	0x0f, 0x01
	.byte	0xca			# site-start: clac
	.byte	0x0f, 0x01, 0xcb	# site: stac
	nop
	movl	$1, %eax
	# other ways to put bytes, of which an instruction may be a part only
	.byte	0xfa			# site: cli
	nop
	.byte	(0x0f), 1, 0xc0 + 10	# site: clac
	nop
	.word	0x010f
	.byte	0xcb			# site-start: stac
	nop
	.ascii	"\x0f\x20\300"		# site: mov-from-cr
	nop
	.long	0x9090300f		# site: wrmsr
	nop
	.quad	0x909090300ffa320f	# site: rdmsr, cli, wrmsr
	nop
	.byte	0xfb, 0xf4		# site: sti;hlt
	nop
	.byte	0xfb			# site: sti;hlt
	hlt
	.byte	0x90, 0xfa		# site: cli
	nop
	.byte	-6			# site: cli
	nop
	# reached by a branch
	jmp	1f
1:	.byte	0x0f, 0x01, 0xca	# site: clac
	ret
	.type	function, @function
function:
	.byte	0x0f, 0x01, 0xcb, 0xc3	# site: stac
	# alternatives, as clang prints them: one of them branches, and the next is named by its address
.Lfirst:
	nop
.Lbehind:
	.section .altinstructions, "a"
	.long	.Lfirst - ., .Lbranch - .
	.byte	.Lbehind - .Lfirst, .Lbranched - .Lbranch
	.long	.Lfirst - ., .Lopen - .
	.byte	.Lbehind - .Lfirst, .Lopened - .Lopen
	.long	.Lfirst - ., .Lclosed - .
	.byte	.Lbehind - .Lfirst, .Lend - .Lclosed
	.section .altinstr_replacement, "ax"
.Lbranch:
	jmp	function
.Lbranched:
	.text
	nop
	.section .altinstr_replacement, "ax"
.Lopen:
	.byte	15
	.byte	1
	.byte	203			# site-start: stac replacement
.Lopened:
.Lclosed:
	.byte	0x0f, 0x01, 0xca	# site: clac replacement
.Lend:
	.text
