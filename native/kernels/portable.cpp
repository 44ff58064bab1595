#define BZ_NS portable
#define BZ_VEC_BYTES 16
#define BZ_KERNELS portable_kernels
#include "all.h"
