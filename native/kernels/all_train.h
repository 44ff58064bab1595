// The kernels of training, as a table. Defined before: BZ_NS (namespace), BZ_VEC_BYTES, BZ_TRAIN (its name).
#include "../train.h"
#include "train.h"

namespace bz {

extern const TrainKernels BZ_TRAIN = {BZ_NS::value_sums, BZ_NS::deviation_sums,     BZ_NS::signs,  BZ_NS::signs_backward,
                                      BZ_NS::piecewise,  BZ_NS::piecewise_backward, BZ_NS::bypass, BZ_NS::bypass_backward};

}  // namespace bz
