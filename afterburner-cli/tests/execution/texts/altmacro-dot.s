# A label that is LOCAL, and a parameter for the number.
	.text
	.altmacro
	.macro	over to
	LOCAL	l
l:	jmp	l+to
	.endm
compute:	mov	%edi,%eax
	over	7
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.noaltmacro
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
