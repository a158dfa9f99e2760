# A section with a name of its own.
	.text
compute:	jmp	f
	.section	.mine,"ax"
f:	mov	%edi,%eax
	jmp	.+7
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.text
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
