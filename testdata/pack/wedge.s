# The least that `afterburner pack` takes for a wedge. It says on the first serial port how it was entered and whether the
# payload lies where its parameters say, then stops QEMU through the device `isa-debug-exit`.

	.section .parameters, "aw"
	.globl parameters
parameters:
	.skip 40
	.set PARAMETERS, 40

	.text
text:
	.code32
	.globl start
start:
	# The one word that is known to be memory is where EBX points to; it serves as a stack.
	mov %eax, %edi
	mov (%ebx), %esi
	lea 4(%ebx), %esp
	call mark
	.globl mark
mark:
	pop %ebp
	mov %esi, (%ebx)
	sub $PARAMETERS + mark - text, %ebp

	mov $0x3f8, %dx
	mov $'?', %al
	cmp $0x2badb002, %edi
	jne 2f
	mov $'1', %al
2:	cmp $0x36d76289, %edi
	jne 3f
	mov $'2', %al
3:	cmpl $0x336ec578, (%ebx)
	jne 4f
	mov $'P', %al
4:	out %al, %dx

	mov $'-', %al
	cmp %ebp, (%ebp)
	jne 5f
	mov 24(%ebp), %ecx
	cmpl $0x65746641, (%ebp, %ecx)
	jne 5f
	mov $'+', %al
5:	out %al, %dx
	mov $'\n', %al
	out %al, %dx

	mov $0xf4, %dx
	out %al, %dx
6:	hlt
	jmp 6b

	.data
	.balign 8
	.globl words
words:
	.quad start, table + 8, 0

	.globl table
	.bss
table:
	.skip 0x3000
