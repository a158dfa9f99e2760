# In Intel syntax, a label and a number in brackets.
	.text
compute:	mov	%edi,%eax
	.intel_syntax	noprefix
	lea	rdx, [rip+p+5]
	jmp	rdx
p:	mov	edx, ds
	imul	eax, eax, 31
	add	eax, 7
	ret
	.att_syntax	prefix
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
