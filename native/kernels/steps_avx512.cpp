#define BZ_NS avx512
#define BZ_VEC_BYTES 64
#define BZ_STEPS avx512_steps
#include "all_steps.h"
