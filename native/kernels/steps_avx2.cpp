#define BZ_NS avx2
#define BZ_VEC_BYTES 32
#define BZ_STEPS avx2_steps
#include "all_steps.h"
