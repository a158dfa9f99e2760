# The same, repeated.
	.text
compute:	mov	%edi,%eax
	.rept	1
	jmp	.+7
	.endr
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
