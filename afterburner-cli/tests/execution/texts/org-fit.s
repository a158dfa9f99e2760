# What is skipped makes up for the pad.
	.text
compute:	mov	%edi,%eax
	jmp	p+32
p:	mov	%ds,%edx
	imul	$31,%eax,%eax
	.org	p+32
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
