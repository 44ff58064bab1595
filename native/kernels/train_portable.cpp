#define BZ_NS portable
#define BZ_VEC_BYTES 16
#define BZ_TRAIN portable_train
#include "all_train.h"
