#define BZ_NS avx512
#define BZ_VEC_BYTES 64
#define BZ_KERNELS avx512_kernels
#include "all.h"
