#define BZ_NS portable
#define BZ_VEC_BYTES 16
#define BZ_KERNELS portable_kernels
#define BZ_STEPS portable_steps
#include "all.h"
