#define BZ_NS portable
#define BZ_VEC_BYTES 16
#define BZ_STEPS portable_steps
#include "all_steps.h"
