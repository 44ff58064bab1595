#define BZ_NS avx2
#define BZ_VEC_BYTES 32
#define BZ_TRAIN avx2_train
#include "all_train.h"
