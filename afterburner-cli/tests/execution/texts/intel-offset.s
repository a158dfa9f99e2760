# In Intel syntax, `OFFSET` with a number behind it.
	.text
compute:	mov	%edi,%eax
	.intel_syntax	noprefix
	mov	edx, OFFSET p+5
	jmp	rdx
p:	mov	edx, ds
	imul	eax, eax, 31
	add	eax, 7
	ret
	.att_syntax	prefix
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
