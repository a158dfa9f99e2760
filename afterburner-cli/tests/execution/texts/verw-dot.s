# The operand of a site lies some bytes behind it.
	.text
compute:	mov	%edi,%eax
	verw	.+16(%rip)
	setz	%al
	mov	%ds,%edx
	movzbl	%al,%eax
	ret
	.word	0x2b,0,0,0,0
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
