# .subsection decides what .previous goes back to.
	.section	.rodata
	.byte	1
	.previous
compute:
	mov	%edi, %eax
	jmp	first+5
	.subsection	1
	mov	%ds, %edx
	.previous
first:	mov	%cs, %esi
	imul	$31, %eax, %eax
	inc	%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
