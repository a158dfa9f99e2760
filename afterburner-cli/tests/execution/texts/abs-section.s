# A number that is an offset in a structure.
	.text
	.struct	0
a:	.struct	a+5
b:
	.text
compute:	mov	%edi,%eax
p:	jmp	p+b+2
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	.rept	8
	inc	%eax
	.endr
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
