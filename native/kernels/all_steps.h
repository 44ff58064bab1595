// The kernels of a program's steps, as a table. Defined before: BZ_NS (namespace), BZ_VEC_BYTES, BZ_STEPS (its name).
#include "../steps.h"
#include "simd.h"

namespace bz {

extern const StepKernels BZ_STEPS = {};

}  // namespace bz
