// The kernels of a program's steps, as a table. Defined before: BZ_NS (namespace), BZ_VEC_BYTES, BZ_STEPS (its name).
#include "../steps.h"
#include "attention.h"
#include "copy.h"
#include "linear.h"
#include "pointwise.h"
#include "pool.h"
#include "rows.h"

namespace bz {

extern const StepKernels BZ_STEPS = {BZ_NS::pointwise, BZ_NS::layer_norm, BZ_NS::pool,   BZ_NS::mean,
                                     BZ_NS::linear,    BZ_NS::copy,       BZ_NS::resize, BZ_NS::softmax,
                                     BZ_NS::attention};

}  // namespace bz
