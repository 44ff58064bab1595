#define BZ_NS avx512
#define BZ_VEC_BYTES 64
#define BZ_TRAIN avx512_train
#include "all_train.h"
