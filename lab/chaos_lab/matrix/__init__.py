"""The matrix: the kernel tests on the real kernels and systemds of Debian, under QEMU."""
